// Exact top-k: a block per (row, unit) finds the k-th best score by radix selection, 8 bits at a time, then
// writes the pages above it and the first of those equal to it, in page order.

#include "kernels/dispatch.cuh"
#include "kernels/score_order.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kLaneDigits = kDigits / 32;
static_assert(kDigits == kThreads, "a thread clears a bin");

/// The keys of a row's candidates. A warp has neighbouring pages, 32 at a time; a thread holds the keys of
/// its first ones and looks the others up whenever they are asked for.
class RowKeys {
 public:
  __device__ RowKeys(const float* scores, int n)
      : scores_(scores),
        first_(static_cast<int>(threadIdx.x) / 32 * (ceil_div(n, kThreads) * 32)),
        last_(min(first_ + ceil_div(n, kThreads) * 32, n)) {
#pragma unroll
    for (int x = 0; x < kHeld; ++x) held_[x] = look_up(page(x));
  }
  /// Calls f(page, exists, key) for all pages of the warp, in order; all lanes call together.
  template <class F>
  __device__ void for_each(const F& f) const {
#pragma unroll
    for (int x = 0; x < kHeld; ++x)
      if (first_ + x * 32 < last_) f(page(x), page(x) < last_, held_[x]);
    // A few at a time: one after another, each would be waited for.
    for (int begin = kHeld; first_ + begin * 32 < last_; begin += kHeld) {
      uint32_t keys[kHeld];
#pragma unroll
      for (int x = 0; x < kHeld; ++x) keys[x] = look_up(page(begin + x));
#pragma unroll
      for (int x = 0; x < kHeld; ++x)
        if (first_ + (begin + x) * 32 < last_) f(page(begin + x), page(begin + x) < last_, keys[x]);
    }
  }

 private:
  static constexpr int kHeld = 8;
  __device__ int page(int x) const { return first_ + x * 32 + static_cast<int>(threadIdx.x) % 32; }
  __device__ uint32_t look_up(int page) const { return page < last_ ? sort_key(scores_[page]) : 0; }
  const float* scores_;
  int first_, last_;
  uint32_t held_[kHeld];
};

/// The `wanted`-th largest key of `n` (1 <= wanted <= n), and how many keys equal to it are among the
/// `wanted` best.
struct Threshold {
  uint32_t key;
  int ties;
};

/// Adds a lane's key, where it is counted, to the bin of its digit.
__device__ void count_digit(int (&histogram)[kDigits], bool counted, int digit) {
  if (counted) atomicAdd(&histogram[digit], 1);
}
/// The same where nearly all keys share a digit: lanes with the first one's are added at once. All lanes
/// call.
__device__ void count_common_digit(int (&histogram)[kDigits], bool counted, int digit) {
  const unsigned lanes = __ballot_sync(~0u, counted);
  if (lanes == 0) return;
  const int first = __ffs(static_cast<int>(lanes)) - 1;
  const int first_digit = __shfl_sync(~0u, digit, first);
  const bool same = counted && digit == first_digit;
  const unsigned same_lanes = __ballot_sync(~0u, same);
  if (static_cast<int>(threadIdx.x) % 32 == first)
    atomicAdd(&histogram[digit], __popc(same_lanes));
  else
    count_digit(histogram, counted && !same, digit);
}

__device__ Threshold find_threshold(const RowKeys& keys, int wanted) {
  __shared__ __align__(16) int histogram[kDigits];
  __shared__ int chosen_digit, remaining;
  uint32_t prefix = 0, prefix_mask = 0;
  int rank = wanted;  // of the key sought among those that begin with the prefix
  histogram[threadIdx.x] = 0;
  __syncthreads();
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    // The highest digit is sign and most of the exponent.
    const bool common = shift == 32 - kDigitBits;
    keys.for_each([&](int, bool exists, uint32_t key) {
      const bool counted = exists && (key & prefix_mask) == prefix;
      const int digit = static_cast<int>((key >> shift) % kDigits);
      common ? count_common_digit(histogram, counted, digit) : count_digit(histogram, counted, digit);
    });
    __syncthreads();
    if (threadIdx.x < 32) {
      // A lane has neighbouring digits; keys with larger ones are counted from the last lane down.
      int own[kLaneDigits], sum = 0;
#pragma unroll
      for (int x = 0; x < kLaneDigits; ++x) {
        int& bin = histogram[threadIdx.x * kLaneDigits + x];
        own[x] = bin;
        sum += own[x];
        bin = 0;
      }
      int from_here = sum;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int later = __shfl_down_sync(~0u, from_here, step);
        if (threadIdx.x + step < 32) from_here += later;
      }
      int above = from_here - sum;
#pragma unroll
      for (int x = kLaneDigits - 1; x >= 0; --x) {
        if (above < rank && rank <= above + own[x]) {
          chosen_digit = static_cast<int>(threadIdx.x) * kLaneDigits + x;
          remaining = rank - above;
        }
        above += own[x];
      }
    }
    __syncthreads();
    rank = remaining;
    prefix |= static_cast<uint32_t>(chosen_digit) << shift;
    prefix_mask |= static_cast<uint32_t>(kDigits - 1) << shift;
  }
  return {prefix, rank};
}

/// Writes, in order, the pages with a key above the threshold and the first `ties` of those at it: a warp
/// counts its own, then writes them after those of earlier warps.
__device__ void write_selected(const RowKeys& keys, Threshold threshold, int32_t* pages) {
  __shared__ int warp_above[kWarps], warp_equal[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int n_above = 0, n_equal = 0;
  keys.for_each([&](int, bool exists, uint32_t key) {
    n_above += exists && key > threshold.key;
    n_equal += exists && key == threshold.key;
  });
  n_above = __reduce_add_sync(~0u, n_above);
  n_equal = __reduce_add_sync(~0u, n_equal);
  if (lane == 0) {
    warp_above[warp] = n_above;
    warp_equal[warp] = n_equal;
  }
  __syncthreads();
  int above_before = 0, equal_before = 0;
  for (int w = 0; w < warp; ++w) {
    above_before += warp_above[w];
    equal_before += warp_equal[w];
  }
  const unsigned lower_lanes = (1u << lane) - 1;
  keys.for_each([&](int page, bool exists, uint32_t key) {
    const unsigned above = __ballot_sync(~0u, exists && key > threshold.key);
    const unsigned equal = __ballot_sync(~0u, exists && key == threshold.key);
    const int above_rank = above_before + __popc(above & lower_lanes);
    const int equal_rank = equal_before + __popc(equal & lower_lanes);
    if (above >> lane & 1 || (equal >> lane & 1 && equal_rank < threshold.ties))
      pages[above_rank + min(equal_rank, threshold.ties)] = page;
    above_before += __popc(above);
    equal_before += __popc(equal);
  });
}

__global__ __launch_bounds__(kThreads) void select_top_k_kernel(SelectTopKParams params) {
  const int i = blockIdx.x, unit = blockIdx.y;
  const int64_t row = static_cast<int64_t>(i) * params.n_units + unit;
  const float* scores = params.scores + row * params.n_pages;
  int32_t* pages = params.lists.pages + row * params.lists.capacity;

  const int newest_page = params.steps[i].position / params.page_size;
  const bool newest_is_given = params.newest != Newest::competes;
  const int candidates = newest_is_given ? newest_page : newest_page + 1;
  const int wanted = params.newest == Newest::forced ? params.k[i] - 1 : params.k[i];
  const int taken = min(max(wanted, 0), candidates);

  if (taken == candidates) {
    for (int page = threadIdx.x; page < taken; page += kThreads) pages[page] = page;
  } else if (taken > 0) {
    const RowKeys keys(scores, candidates);
    write_selected(keys, find_threshold(keys, taken), pages);
  }
  if (threadIdx.x == 0) {
    if (newest_is_given) pages[taken] = newest_page;
    params.lists.count[row] = taken + (newest_is_given ? 1 : 0);
  }
}

}  // namespace

cudaError_t select_top_k(const SelectTopKParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  select_top_k_kernel<<<dim3(params.n_steps, params.n_units), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
