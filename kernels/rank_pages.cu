// Ranks of the next step's pages under a step's own scores: a block per (row, unit) counts better pages; a
// thread has one listed page, and the scores pass through shared memory.

#include <cmath>

#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void rank_pages_kernel(RankPagesParams params) {
  __shared__ float tile[kThreads];
  const int i = blockIdx.x, unit = blockIdx.y;
  const int64_t row = static_cast<int64_t>(i) * params.n_units + unit;
  const int64_t next_row = row + params.n_units;
  const float* scores = params.scores + row * params.n_pages;
  const int listed = params.lists.count[next_row], n_pages = params.n_pages;
  for (int begin = 0; begin < listed; begin += kThreads) {
    const int c = begin + static_cast<int>(threadIdx.x);
    const int page = c < listed ? params.lists.pages[next_row * params.lists.capacity + c] : 0;
    const float score = scores[page];
    int better = 0;
    for (int other = 0; other < n_pages; other += kThreads) {
      __syncthreads();
      if (other + static_cast<int>(threadIdx.x) < n_pages) tile[threadIdx.x] = scores[other + threadIdx.x];
      __syncthreads();
      for (int x = 0; x < min(kThreads, n_pages - other); ++x)
        better += tile[x] > score || (tile[x] == score && other + x < page);
    }
    if (c < listed) params.ranks[row * params.lists.capacity + c] = score == -INFINITY ? -1 : better;
  }
}

}  // namespace

cudaError_t rank_pages(const RankPagesParams& params, cudaStream_t stream) {
  if (params.n_steps < 2) return cudaSuccess;
  rank_pages_kernel<<<dim3(params.n_steps - 1, params.n_units), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
