#pragma once
// Exact top-k of scores in shared memory by one block, in one pass where scores differ: buckets of equal
// width between the smallest and the largest score spread them well whatever their magnitude, so few scores
// share the bucket that holds the k-th best, and those few are ranked directly. Code is kept small rather
// than unrolled: a step runs it once, and instructions that are not in the cache cost more than a loop does.

#include <cfloat>
#include <cstdint>

#include "kernels/score_order.cuh"

namespace hindsight::kernels {

template <int Threads>
inline constexpr int kBuckets = 4 * Threads;  ///< a thread reads its own at once
inline constexpr int kVecScores = 4;          ///< that a thread reads at once
inline constexpr int kMaxRanges = 256;

/// A page and its score, which must be finite.
struct ScoredPage {
  float score;
  int page;
  /// Better scores first; ties to the lower page: no two pages of a row are equal. NaN is never before.
  __device__ bool is_before(const ScoredPage& other) const {
    return score > other.score || (score == other.score && page < other.page);
  }
  __device__ bool is_or_is_before(const ScoredPage& other) const {
    return score > other.score || (score == other.score && page <= other.page);
  }
};

/// Sort keys of the smallest and the largest of some scores; of none, the largest key and 0.
struct ScoreRange {
  float smallest = FLT_MAX, largest = -FLT_MAX;
  __device__ void include(float score) {
    smallest = fminf(smallest, score);
    largest = fmaxf(largest, score);
  }
  /// Of all lanes: as integers, an instruction each.
  __device__ uint2 of_warp() const {
    return make_uint2(__reduce_min_sync(~0u, sort_key(smallest)), __reduce_max_sync(~0u, sort_key(largest)));
  }
};

template <int Threads>
struct SelectShared {
  alignas(16) int histogram[kBuckets<Threads>];
  ScoredPage candidate[Threads];  ///< in the bucket of the k-th best: a thread ranks one
  uint2 range[kMaxRanges];        ///< ScoreRange::of_warp of what the scores came in
  int warp_total[Threads / 32];
  int bucket, above, n_candidates;
  ScoredPage last;
};

/// All threads, some time before find_kth_best; the caller synchronises. Scores beyond n become NaN, up to a
/// multiple of four: they are read and never chosen.
template <int Threads>
__device__ void prepare_selection(float* scores, int n, SelectShared<Threads>& shared) {
  for (int x = threadIdx.x; x < kBuckets<Threads>; x += Threads) shared.histogram[x] = 0;
  if (threadIdx.x == 0) shared.n_candidates = 0;
  if (n + static_cast<int>(threadIdx.x) < (n + kVecScores - 1) / kVecScores * kVecScores)
    scores[n + threadIdx.x] = NAN;
}

/// Calls f(page, scores of page .. page + 3) for the thread's pages of 0..n: those of a warp lie side by
/// side, ascending with calls and lanes. All lanes call at the same time: some with pages beyond n, and NaN.
template <int Threads, class F>
__device__ void for_each_own_four(const float* scores, int n, F&& f) {
  constexpr int warp_pages = 32 * kVecScores;
  const int rounds = (n + Threads * kVecScores - 1) / (Threads * kVecScores);
  const int first = threadIdx.x / 32 * rounds * warp_pages + threadIdx.x % 32 * kVecScores;
#pragma unroll 1
  for (int page = first; page < first + rounds * warp_pages; page += warp_pages) {
    float four[kVecScores] = {NAN, NAN, NAN, NAN};
    if (page < n) *reinterpret_cast<float4*>(four) = *reinterpret_cast<const float4*>(scores + page);
    f(page, four);
  }
}

/// The `wanted`-th best of scores[0..n), 1 <= wanted <= n: exactly `wanted` pages are that one or before it.
/// shared.range[0..ranges) covers the scores. The same in all threads.
template <int Threads>
__device__ ScoredPage find_kth_best(const float* scores, int n, int wanted, int ranges,
                                    SelectShared<Threads>& shared) {
  constexpr int warps = Threads / 32, buckets = kBuckets<Threads>, own_buckets = buckets / Threads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto each = [&](auto&& f) {
    for_each_own_four<Threads>(scores, n, [&](int page, const float(&four)[kVecScores]) {
#pragma unroll
      for (int x = 0; x < kVecScores; ++x) f(page + x, four[x]);
    });
  };

  uint32_t low = ~0u, high = 0;
#pragma unroll 1
  for (int x = lane; x < ranges; x += 32) {
    low = min(low, shared.range[x].x);
    high = max(high, shared.range[x].y);
  }
  low = __reduce_min_sync(~0u, low);
  high = __reduce_max_sync(~0u, high);
  const float smallest = score_of_key(low);
  // Rounding keeps the order: a higher bucket's scores are all higher. Where the width is not a number to
  // divide by, all scores fall into one bucket.
  const float wide = buckets / (score_of_key(high) - smallest);
  const float per_score = wide > 0 && wide <= FLT_MAX ? wide : 0.0f;
  const auto bucket_of = [&](float score) {
    return min(buckets - 1, static_cast<int>((score - smallest) * per_score));
  };
  each([&](int, float score) {
    if (score == score) atomicAdd(&shared.histogram[bucket_of(score)], 1);
  });
  __syncthreads();

  // A thread has four buckets, the first thread the highest ones.
  const int lowest = buckets - own_buckets * (static_cast<int>(threadIdx.x) + 1);
  const int4 own = *reinterpret_cast<const int4*>(&shared.histogram[lowest]);
  const int own_total = own.x + own.y + own.z + own.w;
  int total = own_total;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int lower_lane = __shfl_up_sync(~0u, total, offset);
    if (lane >= offset) total += lower_lane;
  }
  if (lane == 31) shared.warp_total[warp] = total;
  __syncthreads();
  total += __reduce_add_sync(~0u, lane < warp ? shared.warp_total[lane] : 0);
  if (total - own_total < wanted && wanted <= total) {
    int above = total - own_total, bucket = lowest + own_buckets - 1;
#pragma unroll 1
    for (; above + shared.histogram[bucket] < wanted; --bucket) above += shared.histogram[bucket];
    shared.bucket = bucket;
    shared.above = above;
  }
  __syncthreads();

  const int bucket = shared.bucket, needed = wanted - shared.above;
  each([&](int page, float score) {
    if (bucket_of(score) != bucket || score != score) return;
    const int at = atomicAdd(&shared.n_candidates, 1);
    if (at < Threads) shared.candidate[at] = {score, page};
  });
  __syncthreads();
  const int candidates = shared.n_candidates;
  if (candidates <= Threads) {
    if (static_cast<int>(threadIdx.x) < candidates) {
      const ScoredPage mine = shared.candidate[threadIdx.x];
      int better = 0;
#pragma unroll 4
      for (int x = 0; x < candidates; ++x) better += shared.candidate[x].is_before(mine);
      if (better == needed - 1) shared.last = mine;
    }
  } else {
    // Many scores that are nearly or quite equal: bit by bit.
    uint64_t threshold = 0;
#pragma unroll 1
    for (int bit = 63; bit >= 0; --bit) {
      const uint64_t higher = threshold | uint64_t{1} << bit;
      int count = 0;
      each([&](int page, float score) { count += page < n && score_order(score, page) >= higher; });
      count = __reduce_add_sync(~0u, count);
      __syncthreads();  // earlier totals have been read
      if (lane == 0) shared.warp_total[warp] = count;
      __syncthreads();
      if (__reduce_add_sync(~0u, lane < warps ? shared.warp_total[lane] : 0) >= wanted) threshold = higher;
    }
    each([&](int page, float score) {
      if (page < n && score_order(score, page) == threshold) shared.last = {score, page};
    });
  }
  __syncthreads();
  return shared.last;
}

/// Calls f(place, page) for the pages of 0..n that are `last` or before it, place being their number in
/// ascending order of pages. All threads must call.
template <int Threads, class F>
__device__ void for_each_selected(const float* scores, int n, ScoredPage last, SelectShared<Threads>& shared,
                                  F&& f) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto selected = [&](int page, const float(&four)[kVecScores]) {
    unsigned bits = 0;
#pragma unroll
    for (int x = 0; x < kVecScores; ++x)
      if (ScoredPage{four[x], page + x}.is_or_is_before(last)) bits |= 1u << x;
    return bits;
  };
  int own = 0;
  for_each_own_four<Threads>(
      scores, n, [&](int page, const float(&four)[kVecScores]) { own += __popc(selected(page, four)); });
  own = __reduce_add_sync(~0u, own);
  if (lane == 0) shared.warp_total[warp] = own;
  __syncthreads();
  int place = __reduce_add_sync(~0u, lane < warp ? shared.warp_total[lane] : 0);
  for_each_own_four<Threads>(scores, n, [&](int page, const float(&four)[kVecScores]) {
    unsigned bits = selected(page, four);
    const int count = __popc(bits);
    int before = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int lower_lane = __shfl_up_sync(~0u, before, offset);
      if (lane >= offset) before += lower_lane;
    }
    const int round_total = __shfl_sync(~0u, before, 31);
    int at = place + before - count;
    place += round_total;
    for (; bits != 0; bits &= bits - 1) f(at++, page + __ffs(static_cast<int>(bits)) - 1);
  });
}

}  // namespace hindsight::kernels
