// Random page scores: a thread per score.

#include <cmath>

#include "kernels/counter_random.cuh"
#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

__global__ void random_scores_kernel(RandomScoresParams params) {
  const int page = static_cast<int>(blockIdx.z * blockDim.x + threadIdx.x);
  const int unit = blockIdx.y, i = blockIdx.x;
  if (page >= params.n_pages) return;
  const int position = params.steps[i].position;
  params.scores[(static_cast<int64_t>(i) * params.n_units + unit) * params.n_pages + page] =
      page <= position / params.page_size ? counter_uniform(params.seed, params.layer, position, unit, page)
                                          : -INFINITY;
}

}  // namespace

cudaError_t random_scores(const RandomScoresParams& params, cudaStream_t stream) {
  if (params.n_steps == 0 || params.n_pages == 0) return cudaSuccess;
  constexpr int threads = 128;
  const dim3 grid(params.n_steps, params.n_units, ceil_div(params.n_pages, threads));
  random_scores_kernel<<<grid, threads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
