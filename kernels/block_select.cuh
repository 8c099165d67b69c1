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
template <int Threads>
inline constexpr int kMostPages = 32 * Threads;  ///< a thread has a bit for each of its own

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

template <int Threads>
struct SelectShared {
  alignas(16) int histogram[kBuckets<Threads>];
  ScoredPage candidate[Threads];   ///< in the bucket of the k-th best: a thread ranks one
  uint2 range[Threads / 32];       ///< sort keys of a warp's smallest and largest score
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

/// A thread's pages, side by side, in fours. Some threads' may be beyond n.
template <int Threads>
struct OwnPages {
  int first, fours;
  int first_four;  ///< to be read

  __device__ explicit OwnPages(int n) {
    fours = (n + Threads * kVecScores - 1) / (Threads * kVecScores);
    first = static_cast<int>(threadIdx.x) * fours * kVecScores;
    first_four = fours == 1 ? 0 : static_cast<int>(threadIdx.x) % fours;
  }
  /// A bit for each of the thread's pages that exist.
  __device__ uint32_t existing(int n) const {
    return first + 32 <= n ? ~0u : first < n ? ~0u >> (first + 32 - n) : 0u;
  }
  /// Calls f(x, scores of page first + x .. first + x + 3) for all fours, in an order of the lane's own:
  /// others would meet the same banks. All lanes call at the same time: some with pages beyond n, and -inf.
  template <class F>
  __device__ void for_each_four(const float* scores, int n, F&& f) const {
    int four = first_four;
#pragma unroll 1
    for (int round = 0; round < fours; ++round) {
      const int x = four * kVecScores;
      float values[kVecScores] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      if (first + x < n)
        *reinterpret_cast<float4*>(values) = *reinterpret_cast<const float4*>(scores + first + x);
      f(x, values);
      four = four + 1 == fours ? 0 : four + 1;
    }
  }
  template <class F>
  __device__ void for_each(const float* scores, int n, F&& f) const {
    for_each_four(scores, n, [&](int x, const float(&four)[kVecScores]) {
      if (first + x >= n) return;
#pragma unroll
      for (int i = 0; i < kVecScores; ++i) f(first + x + i, four[i]);
    });
  }
};

/// Buckets of scores. Rounding keeps the order: a higher bucket's scores are all higher; -inf is in the
/// lowest. Where the width is not a number to divide by, all scores fall into one bucket.
template <int Threads>
struct ScoreBuckets {
  float per_score, offset;

  /// Of these scores. Synchronises.
  __device__ ScoreBuckets(const float* scores, int n, const OwnPages<Threads>& own,
                          uint2 (&range)[Threads / 32]) {
    constexpr int warps = Threads / 32;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float low = FLT_MAX, high = -FLT_MAX;
    own.for_each(scores, n, [&](int, float score) {
      if (score != -INFINITY) low = fminf(low, score);
      high = fmaxf(high, score);
    });
    // As integers: an instruction for all lanes.
    uint32_t lowest = __reduce_min_sync(~0u, sort_key(low)), highest = __reduce_max_sync(~0u, sort_key(high));
    if (lane == 0) range[warp] = make_uint2(lowest, highest);
    __syncthreads();
    const uint2 of_warp = range[lane % warps];
    lowest = __reduce_min_sync(~0u, of_warp.x);
    highest = __reduce_max_sync(~0u, of_warp.y);
    const float smallest = score_of_key(lowest);
    const float wide = __fdividef(kBuckets<Threads>, score_of_key(highest) - smallest);
    const bool is_usable = wide > 0 && fabsf(smallest * wide) <= FLT_MAX;
    per_score = is_usable ? wide : 0.0f;
    offset = is_usable ? -smallest * wide : 0.0f;
  }
  /// A score's place: bucket b has [b, b + 1), the lowest all below and the highest all above as well.
  __device__ float place(float score) const { return fmaf(score, per_score, offset); }
  __device__ float begin_of(int bucket) const { return bucket == 0 ? -INFINITY : static_cast<float>(bucket); }
  __device__ float end_of(int bucket) const {
    return bucket == kBuckets<Threads> - 1 ? INFINITY : static_cast<float>(bucket + 1);
  }
  /// By the bits of a float between 2^23 and 2^24: converting it to an integer would take a slow instruction.
  __device__ int of(float score) const {
    constexpr int buckets = kBuckets<Threads>;
    static_assert((buckets & (buckets - 1)) == 0);
    const float at = fminf(fmaxf(place(score), 0.0f), buckets - 1);  // NaN: 0
    return __float_as_int(__fadd_rd(at, 8388608.0f)) & (buckets - 1);
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

/// Calls f(place, page) for the `wanted` best pages, 1 <= wanted <= n, of scores[0..n), place being their
/// number in ascending order of pages. All threads must call.
template <int Threads, class F>
__device__ void for_each_of_best(const float* scores, int n, int wanted, SelectShared<Threads>& shared,
                                 F&& f) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const OwnPages<Threads> own(n);
  const ScoreBuckets<Threads> buckets(scores, n, own, shared.range);
  own.for_each(scores, n, [&](int, float score) { atomicAdd(&shared.histogram[buckets.of(score)], 1); });
  __syncthreads();
  find_bucket(wanted, shared);
  __syncthreads();

  const int needed = wanted - shared.above;
  const float begin = buckets.begin_of(shared.bucket), end = buckets.end_of(shared.bucket);
  uint32_t chosen = 0, maybe = 0;  // of the thread's pages: those of higher buckets, and of this one
  own.for_each_four(scores, n, [&](int x, const float(&four)[kVecScores]) {
    uint32_t higher = 0, same = 0;
#pragma unroll
    for (int i = 0; i < kVecScores; ++i) {
      const float place = buckets.place(four[i]);
      if (place >= end)
        higher |= 1u << i;
      else if (place >= begin)
        same |= 1u << i;
    }
    chosen |= higher << x;
    maybe |= same << x;
  });
  maybe &= own.existing(n);
#pragma unroll 1
  for (uint32_t left = maybe; left != 0; left &= left - 1) {
    const int page = own.first + __ffs(static_cast<int>(left)) - 1, at = atomicAdd(&shared.n_candidates, 1);
    if (at < Threads) shared.candidate[at] = {scores[page], page};
  }
  const int certain = __reduce_add_sync(~0u, __popc(chosen));
  if (lane == 0) shared.warp_total[warp] = certain;
  __syncthreads();

  ScoredPage last;
  int place;  // of the warp's first page that is chosen
  const int candidates = shared.n_candidates;
  const auto choose = [&] {
#pragma unroll 1
    for (; maybe != 0; maybe &= maybe - 1) {
      const int x = __ffs(static_cast<int>(maybe)) - 1;
      if (ScoredPage{scores[own.first + x], own.first + x}.is_or_is_before(last)) chosen |= 1u << x;
    }
  };
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
    const int warp_first = own.first - lane * own.fours * kVecScores;
    last = shared.candidate[__ffs(static_cast<int>(__ballot_sync(~0u, better == needed - 1))) - 1];
    place = __reduce_add_sync(~0u, lane < warp ? shared.warp_total[lane] : 0) +
            __popc(__ballot_sync(~0u, better < needed && mine.page < warp_first));
    choose();
  } else {
    rank_candidates(scores, n, wanted, needed, own, shared);
    __syncthreads();
    last = shared.last;
    choose();
    const int total = __reduce_add_sync(~0u, __popc(chosen));
    if (lane == 0) shared.warp_total[warp] = total;
    __syncthreads();
    place = __reduce_add_sync(~0u, lane < warp ? shared.warp_total[lane] : 0);
  }

  const int count = __popc(chosen);
  int before = count;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int lower_lanes = __shfl_up_sync(~0u, before, offset);
    if (lane >= offset) before += lower_lanes;
  }
  place += before - count;
#pragma unroll 1
  for (; chosen != 0; chosen &= chosen - 1) f(place++, own.first + __ffs(static_cast<int>(chosen)) - 1);
}

}  // namespace hindsight::kernels
