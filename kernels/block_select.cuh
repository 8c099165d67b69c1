#pragma once
// Exact top-k of scores in shared memory by one block, in one pass where scores differ: buckets of equal
// width between the smallest and the largest score spread them well whatever their magnitude, so few scores
// share the bucket that holds the k-th best, and those few are ranked directly. Code is kept small rather
// than unrolled: a step runs it once, and instructions that are not in the cache cost more than a loop does.
// Sixteen warps share four schedulers: an instruction that all run takes four cycles of a step.

#include <cfloat>
#include <climits>
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
  ScoredPage candidate[Threads];   ///< in the bucket of the k-th best: a thread ranks one
  uint2 range[kMaxRanges];         ///< ScoreRange::of_warp of what the scores came in
  int bucket_total[Threads / 32];  ///< scores in a warp's buckets
  int warp_total[Threads / 32];    ///< a warp's pages that are chosen for certain
  int bucket, above, n_candidates;
  ScoredPage last;
};

/// All threads, some time before for_each_of_best; the caller synchronises. Scores beyond n become -inf, up
/// to a multiple of four: they are read and never chosen.
template <int Threads>
__device__ void prepare_selection(float* scores, int n, SelectShared<Threads>& shared) {
  for (int x = threadIdx.x; x < kBuckets<Threads>; x += Threads) shared.histogram[x] = 0;
  if (threadIdx.x == 0) shared.n_candidates = 0;
  if (n + static_cast<int>(threadIdx.x) < (n + kVecScores - 1) / kVecScores * kVecScores)
    scores[n + threadIdx.x] = -INFINITY;
}

/// The pages of a warp lie side by side, four of a lane in each round.
template <int Threads>
struct OwnPages {
  static constexpr int round = 32 * kVecScores;
  int first, end;  ///< of the warp; some may be beyond n

  __device__ explicit OwnPages(int n) {
    const int rounds = (n + Threads * kVecScores - 1) / (Threads * kVecScores);
    first = static_cast<int>(threadIdx.x) / 32 * rounds * round;
    end = first + rounds * round;
  }
  /// Calls f(page, scores of page .. page + 3), ascending with calls and lanes. All lanes call at the same
  /// time: some with pages beyond n, and -inf.
  template <class F>
  __device__ void for_each_four(const float* scores, int n, F&& f) const {
    const int lane_page = static_cast<int>(threadIdx.x) % 32 * kVecScores;
#pragma unroll 1
    for (int page = first + lane_page; page < end + lane_page; page += round) {
      float four[kVecScores] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      if (page < n) *reinterpret_cast<float4*>(four) = *reinterpret_cast<const float4*>(scores + page);
      f(page, four);
    }
  }
  template <class F>
  __device__ void for_each(const float* scores, int n, F&& f) const {
    for_each_four(scores, n, [&](int page, const float(&four)[kVecScores]) {
      if (page >= n) return;
#pragma unroll
      for (int x = 0; x < kVecScores; ++x) f(page + x, four[x]);
    });
  }
};

/// Buckets of scores. Rounding keeps the order: a higher bucket's scores are all higher; -inf is in the
/// lowest. Where the width is not a number to divide by, all scores fall into one bucket.
template <int Threads>
struct ScoreBuckets {
  float smallest, per_score;

  /// Of scores in these ranges.
  __device__ ScoreBuckets(const uint2* range, int ranges) {
    const int lane = threadIdx.x % 32;
    uint32_t low = ~0u, high = 0;
#pragma unroll
    for (int x = 0; x < kMaxRanges; x += 32)
      if (x + lane < ranges) {
        low = min(low, range[x + lane].x);
        high = max(high, range[x + lane].y);
      }
    smallest = score_of_key(__reduce_min_sync(~0u, low));
    const float wide = __fdividef(kBuckets<Threads>, score_of_key(__reduce_max_sync(~0u, high)) - smallest);
    per_score = wide > 0 && wide <= FLT_MAX ? wide : 0.0f;
  }
  __device__ int of(float score) const {
    const float at = (score - smallest) * per_score;
    return static_cast<int>(min(kBuckets<Threads> - 1u, __float2uint_rz(at)));  // below 0 and NaN: 0
  }
};

/// The bucket that holds the `wanted`-th best score, into shared.bucket, and how many are in higher ones,
/// into shared.above. The caller synchronises.
template <int Threads>
__device__ void find_bucket(int wanted, SelectShared<Threads>& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A thread has four buckets, the first thread the highest ones.
  const int highest = kBuckets<Threads> - 1 - kVecScores * static_cast<int>(threadIdx.x);
  const int4 own = *reinterpret_cast<const int4*>(&shared.histogram[highest + 1 - kVecScores]);
  const int own_total = own.x + own.y + own.z + own.w, warp_total = __reduce_add_sync(~0u, own_total);
  if (lane == 0) shared.bucket_total[warp] = warp_total;
  __syncthreads();
  const int before_warp = __reduce_add_sync(~0u, lane < warp ? shared.bucket_total[lane] : 0);
  if (before_warp >= wanted || before_warp + warp_total < wanted) return;
  int total = own_total;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int lower_lane = __shfl_up_sync(~0u, total, offset);
    if (lane >= offset) total += lower_lane;
  }
  int above = before_warp + total - own_total;
  if (above >= wanted || above + own_total < wanted) return;
  int bucket = highest;
  bool goes_on = true;
  const int counts[] = {own.w, own.z, own.y};
#pragma unroll
  for (int x = 0; x < 3; ++x) {
    goes_on = goes_on && above + counts[x] < wanted;
    above += goes_on ? counts[x] : 0;
    bucket -= goes_on;
  }
  shared.bucket = bucket;
  shared.above = above;
}

/// The candidate that exactly `needed` candidates are or are before, into shared.last; there are too many for
/// a warp. The caller synchronises.
template <int Threads>
__device__ void rank_candidates(const float* scores, int n, int wanted, int needed,
                                const OwnPages<Threads>& own, SelectShared<Threads>& shared) {
  constexpr int warps = Threads / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, candidates = shared.n_candidates;
  if (candidates <= Threads) {
    if (static_cast<int>(threadIdx.x) < candidates) {
      const ScoredPage mine = shared.candidate[threadIdx.x];
      int better = 0;
#pragma unroll 4
      for (int x = 0; x < candidates; ++x) better += shared.candidate[x].is_before(mine);
      if (better == needed - 1) shared.last = mine;
    }
    return;
  }
  // Many scores that are nearly or quite equal: bit by bit.
  uint64_t threshold = 0;
#pragma unroll 1
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t higher = threshold | uint64_t{1} << bit;
    int count = 0;
    own.for_each(scores, n,
                 [&](int page, float score) { count += page < n && score_order(score, page) >= higher; });
    count = __reduce_add_sync(~0u, count);
    __syncthreads();  // earlier totals have been read
    if (lane == 0) shared.warp_total[warp] = count;
    __syncthreads();
    if (__reduce_add_sync(~0u, lane < warps ? shared.warp_total[lane] : 0) >= wanted) threshold = higher;
  }
  own.for_each(scores, n, [&](int page, float score) {
    if (page < n && score_order(score, page) == threshold) shared.last = {score, page};
  });
}

/// Calls f(page, bits, place) for four pages from `page` on, those of `bits` being among the `wanted` best,
/// 1 <= wanted <= n, of scores[0..n); place is the number of the first of them in ascending order of pages.
/// shared.range[0..ranges) covers the scores. All threads must call.
template <int Threads, class F>
__device__ void for_each_of_best(const float* scores, int n, int wanted, int ranges,
                                 SelectShared<Threads>& shared, F&& f) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const OwnPages<Threads> own(n);
  const ScoreBuckets<Threads> buckets(shared.range, ranges);
  own.for_each(scores, n, [&](int, float score) { atomicAdd(&shared.histogram[buckets.of(score)], 1); });
  __syncthreads();
  find_bucket(wanted, shared);
  __syncthreads();

  const int bucket = shared.bucket, needed = wanted - shared.above;
  int certain = 0;
  own.for_each(scores, n, [&](int page, float score) {
    const int its = buckets.of(score);
    certain += its > bucket;
    if (its != bucket) return;
    const int at = atomicAdd(&shared.n_candidates, 1);
    if (at < Threads) shared.candidate[at] = {score, page};
  });
  certain = __reduce_add_sync(~0u, certain);
  if (lane == 0) shared.warp_total[warp] = certain;
  __syncthreads();

  ScoredPage last;
  int place;  // of the warp's first page that is chosen
  const int candidates = shared.n_candidates;
  if (candidates <= 32) {
    // Each warp ranks them: a lane has one.
    ScoredPage mine{};
    int better = INT_MAX;
    if (lane < candidates) {
      mine = shared.candidate[lane];
      better = 0;
#pragma unroll 1
      for (int x = 0; x < candidates; ++x) better += shared.candidate[x].is_before(mine);
    }
    last = shared.candidate[__ffs(static_cast<int>(__ballot_sync(~0u, better == needed - 1))) - 1];
    place = __reduce_add_sync(~0u, lane < warp ? shared.warp_total[lane] : 0) +
            __popc(__ballot_sync(~0u, better < needed && mine.page < own.first));
  } else {
    rank_candidates(scores, n, wanted, needed, own, shared);
    __syncthreads();
    last = shared.last;
    int chosen = 0;
    own.for_each(scores, n, [&](int page, float score) {
      chosen += ScoredPage{score, page}.is_or_is_before(last);
    });
    chosen = __reduce_add_sync(~0u, chosen);
    if (lane == 0) shared.warp_total[warp] = chosen;
    __syncthreads();
    place = __reduce_add_sync(~0u, lane < warp ? shared.warp_total[lane] : 0);
  }

  const unsigned lower_lanes = (1u << lane) - 1;
  own.for_each_four(scores, n, [&](int page, const float(&four)[kVecScores]) {
    unsigned bits = 0;
    int at = place;
#pragma unroll
    for (int x = 0; x < kVecScores; ++x) {
      const bool chosen = ScoredPage{four[x], page + x}.is_or_is_before(last);
      const unsigned lanes = __ballot_sync(~0u, chosen);
      bits |= static_cast<unsigned>(chosen) << x;
      at += __popc(lanes & lower_lanes);
      place += __popc(lanes);
    }
    if (bits != 0) f(page, bits, at);
  });
}

}  // namespace hindsight::kernels
