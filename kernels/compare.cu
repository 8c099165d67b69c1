// Errors of outputs against a reference: a warp per (row, head), sums in double.

#include <cmath>

#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;

__device__ double warp_sum(double x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

__global__ void compare_kernel(CompareParams params) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= params.rows) return;
  double difference = 0, reference = 0, own = 0, dot = 0;
  for (int c = threadIdx.x % 32; c < params.head_dim; c += 32) {
    const double a = params.out[row * params.head_dim + c],
                 b = params.reference_out[row * params.head_dim + c];
    difference += (a - b) * (a - b);
    reference += b * b;
    own += a * a;
    dot += a * b;
  }
  difference = warp_sum(difference);
  reference = warp_sum(reference);
  own = warp_sum(own);
  dot = warp_sum(dot);
  if (threadIdx.x % 32 != 0) return;
  const double norms = sqrt(own * reference);
  params.rel_l2[row] = reference > 0 ? static_cast<float>(sqrt(difference / reference)) : NAN;
  params.cosine[row] = reference > 0 ? static_cast<float>(norms > 0 ? dot / norms : 0) : NAN;
  const double shown = exp(static_cast<double>(params.lse[row]) - params.reference_lse[row]);
  params.recall[row] = static_cast<float>(fmin(1.0, shown));
}

}  // namespace

cudaError_t compare(const CompareParams& params, cudaStream_t stream) {
  if (params.rows == 0) return cudaSuccess;
  compare_kernel<<<ceil_div(params.rows, kThreads / 32), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
