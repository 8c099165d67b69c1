#pragma once
// Exact top-k of scores in shared memory by one block, in one pass where scores differ: buckets of equal
// width between the smallest and the largest score spread them well whatever their magnitude, so few scores
// share the bucket that holds the k-th best, and those few are ranked directly.

#include <cfloat>
#include <cstdint>

#include "kernels/score_order.cuh"

namespace hindsight::kernels {

inline constexpr int kBuckets = 2048;
inline constexpr int kCandidates = 512;  ///< in the bucket of the k-th best, for which ranking is worth it

template <int Threads>
struct SelectShared {
  int histogram[kBuckets];
  uint64_t candidate[kCandidates];  ///< their ranks
  int warp_total[Threads / 32];
  float warp_smallest[Threads / 32], warp_largest[Threads / 32];
  int bucket, above, n_candidates;
  uint64_t threshold;
};

/// Sum over the block of one number a thread.
template <int Threads>
__device__ int block_sum(int x, SelectShared<Threads>& shared) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();  // earlier totals have been read
  if (threadIdx.x % 32 == 0) shared.warp_total[threadIdx.x / 32] = x;
  __syncthreads();
  int sum = 0;
  for (int warp = 0; warp < Threads / 32; ++warp) sum += shared.warp_total[warp];
  return sum;
}

/// Rank (score_order) of the `wanted`-th best of scores[0..n), 1 <= wanted <= n: exactly `wanted` pages have
/// that rank or a higher one. The same in all threads; a block barrier lies before the return.
template <int Threads>
__device__ uint64_t find_kth_best(const float* scores, int n, int wanted, SelectShared<Threads>& shared) {
  static_assert(kBuckets % Threads == 0);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float smallest = INFINITY, largest = -INFINITY;
#pragma unroll 4
  for (int page = threadIdx.x; page < n; page += Threads) {
    smallest = fminf(smallest, scores[page]);
    largest = fmaxf(largest, scores[page]);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    smallest = fminf(smallest, __shfl_xor_sync(~0u, smallest, offset));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
  }
  if (lane == 0) {
    shared.warp_smallest[warp] = smallest;
    shared.warp_largest[warp] = largest;
  }
  for (int x = threadIdx.x; x < kBuckets; x += Threads) shared.histogram[x] = 0;
  if (threadIdx.x == 0) shared.n_candidates = 0;
  __syncthreads();
  for (int w = 0; w < Threads / 32; ++w) {
    smallest = fminf(smallest, shared.warp_smallest[w]);
    largest = fmaxf(largest, shared.warp_largest[w]);
  }
  // Rounding keeps the order: a higher bucket's scores are all higher. Where the width is not a number to
  // divide by, all scores fall into one bucket.
  const float wide = kBuckets / (largest - smallest);
  const float per_score = wide > 0 && wide <= FLT_MAX ? wide : 0.0f;
  const auto bucket_of = [&](float score) {
    return min(kBuckets - 1, max(0, static_cast<int>((score - smallest) * per_score)));
  };
#pragma unroll 4
  for (int page = threadIdx.x; page < n; page += Threads)
    atomicAdd(&shared.histogram[bucket_of(scores[page])], 1);
  __syncthreads();

  // A thread has a few buckets, the first thread the highest ones.
  constexpr int own_buckets = kBuckets / Threads;
  const int lowest = kBuckets - own_buckets * (static_cast<int>(threadIdx.x) + 1);
  int own = 0;
  for (int x = 0; x < own_buckets; ++x) own += shared.histogram[lowest + x];
  int with_own = own;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int lower_lane = __shfl_up_sync(~0u, with_own, offset);
    if (lane >= offset) with_own += lower_lane;
  }
  if (lane == 31) shared.warp_total[warp] = with_own;
  __syncthreads();
  for (int w = 0; w < warp; ++w) with_own += shared.warp_total[w];
  if (with_own - own < wanted && wanted <= with_own) {
    int above = with_own - own, bucket = lowest + own_buckets - 1;
    for (; above + shared.histogram[bucket] < wanted; --bucket) above += shared.histogram[bucket];
    shared.bucket = bucket;
    shared.above = above;
  }
  __syncthreads();

  const int bucket = shared.bucket, needed = wanted - shared.above;
#pragma unroll 4
  for (int page = threadIdx.x; page < n; page += Threads) {
    if (bucket_of(scores[page]) != bucket) continue;
    const int at = atomicAdd(&shared.n_candidates, 1);
    if (at < kCandidates) shared.candidate[at] = score_order(scores[page], page);
  }
  __syncthreads();
  const int candidates = shared.n_candidates;
  if (candidates <= kCandidates) {
    for (int x = threadIdx.x; x < candidates; x += Threads) {
      const uint64_t rank = shared.candidate[x];
      int better = 0;
#pragma unroll 8
      for (int y = 0; y < candidates; ++y) better += shared.candidate[y] > rank;
      if (better == needed - 1) shared.threshold = rank;
    }
    __syncthreads();
    return shared.threshold;
  }
  // Many scores that are nearly or quite equal: bit by bit.
  uint64_t threshold = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t higher = threshold | uint64_t{1} << bit;
    int count = 0;
    for (int page = threadIdx.x; page < n; page += Threads)
      count += score_order(scores[page], page) >= higher;
    if (block_sum(count, shared) >= wanted) threshold = higher;
  }
  return threshold;
}

/// Calls f(place, page) for the pages of 0..n whose rank is `threshold` or higher, place being their number
/// in ascending order of pages. All threads must call.
template <int Threads, class F>
__device__ void for_each_selected(const float* scores, int n, uint64_t threshold,
                                  SelectShared<Threads>& shared, F&& f) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int rounds = (n + Threads - 1) / Threads, first = warp * rounds * 32 + lane;
  const auto is_selected = [&](int page) { return page < n && score_order(scores[page], page) >= threshold; };
  int own = 0;
#pragma unroll 4
  for (int round = 0; round < rounds; ++round)
    own += __popc(__ballot_sync(~0u, is_selected(first + round * 32)));
  __syncthreads();  // earlier totals have been read
  if (lane == 0) shared.warp_total[warp] = own;
  __syncthreads();
  int place = 0;
  for (int w = 0; w < warp; ++w) place += shared.warp_total[w];
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
    const int page = first + round * 32;
    const bool selected = is_selected(page);
    const unsigned lanes = __ballot_sync(~0u, selected);
    if (selected) f(place + __popc(lanes & ((1u << lane) - 1)), page);
    place += __popc(lanes);
  }
}

}  // namespace hindsight::kernels
