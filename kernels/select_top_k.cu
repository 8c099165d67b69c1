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
static_assert(kDigits == kThreads, "a thread per histogram bin");

/// The `wanted`-th largest key of `n` (1 <= wanted <= n), and how many keys equal to it are among the
/// `wanted` best.
struct Threshold {
  uint32_t key;
  int ties;
};

__device__ Threshold find_threshold(const float* scores, int n, int wanted) {
  __shared__ int histogram[kDigits];
  __shared__ uint32_t chosen_digit;
  __shared__ int remaining;
  uint32_t prefix = 0, prefix_mask = 0;
  if (threadIdx.x == 0) remaining = wanted;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    const int rank = remaining;
    for (int page = threadIdx.x; page < n; page += kThreads) {
      const uint32_t key = sort_key(scores[page]);
      if ((key & prefix_mask) == prefix) atomicAdd(&histogram[(key >> shift) % kDigits], 1);
    }
    __syncthreads();
    // Keys with a larger digit: a suffix sum over the bins, by doubling.
    const int own = histogram[threadIdx.x];
    int from_here = own;
    for (int step = 1; step < kDigits; step *= 2) {
      const int above = threadIdx.x + step < kDigits ? histogram[threadIdx.x + step] : 0;
      __syncthreads();
      from_here += above;
      histogram[threadIdx.x] = from_here;
      __syncthreads();
    }
    const int above = from_here - own;
    if (above < rank && rank <= from_here) {
      chosen_digit = threadIdx.x;
      remaining = rank - above;
    }
    __syncthreads();
    prefix |= chosen_digit << shift;
    prefix_mask |= static_cast<uint32_t>(kDigits - 1) << shift;
  }
  return {prefix, remaining};
}

/// Writes, in order, the pages with a key above the threshold and the first `ties` of those at it.
__device__ void write_selected(const float* scores, int n, Threshold threshold, int32_t* pages) {
  __shared__ int warp_above[kWarps], warp_equal[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned lower_lanes = (1u << lane) - 1;
  int above_before = 0, equal_before = 0;  // in earlier rounds
  for (int begin = 0; begin < n; begin += kThreads) {
    const int page = begin + static_cast<int>(threadIdx.x);
    const uint32_t key = page < n ? sort_key(scores[page]) : 0;
    const bool above = page < n && key > threshold.key, equal = page < n && key == threshold.key;
    const unsigned above_lanes = __ballot_sync(~0u, above), equal_lanes = __ballot_sync(~0u, equal);
    if (lane == 0) {
      warp_above[warp] = __popc(above_lanes);
      warp_equal[warp] = __popc(equal_lanes);
    }
    __syncthreads();
    int above_rank = above_before + __popc(above_lanes & lower_lanes);
    int equal_rank = equal_before + __popc(equal_lanes & lower_lanes);
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) {
        above_rank += warp_above[w];
        equal_rank += warp_equal[w];
      }
      above_before += warp_above[w];
      equal_before += warp_equal[w];
    }
    if (above || (equal && equal_rank < threshold.ties))
      pages[above_rank + min(equal_rank, threshold.ties)] = page;
    __syncthreads();
  }
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
    write_selected(scores, candidates, find_threshold(scores, candidates, taken), pages);
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
