// Errors against a reference, sums in double: of outputs, a warp per (row, head); of a model's rows, a block
// for a row.

#include <cmath>

#include "kernels/dispatch.cuh"
#include "kernels/early.cuh"

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

__global__ void compare_rows_kernel(CompareRowsParams params) {
  __shared__ double differences[kThreads / 32], norms[kThreads / 32];
  wait_after_early_launch();
  const int64_t i = blockIdx.x;
  const float* const x = params.x + i * params.width;
  const float* const reference = params.references[i];
  double difference = 0, norm = 0;
  for (int64_t c = threadIdx.x; c < params.width; c += kThreads) {
    const double a = x[c], b = reference[c];
    difference += (a - b) * (a - b);
    norm += b * b;
  }
  difference = warp_sum(difference);
  norm = warp_sum(norm);
  if (threadIdx.x % 32 == 0) {
    differences[threadIdx.x / 32] = difference;
    norms[threadIdx.x / 32] = norm;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) {
    difference += differences[warp];
    norm += norms[warp];
  }
  params.errors[i] = norm > 0 ? sqrt(difference / norm) : static_cast<double>(NAN);
}

}  // namespace

cudaError_t compare_rows(const CompareRowsParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return launch_early(compare_rows_kernel, dim3(static_cast<unsigned>(params.n)), dim3(kThreads), params,
                      stream);
}

cudaError_t compare(const CompareParams& params, cudaStream_t stream) {
  if (params.rows == 0) return cudaSuccess;
  compare_kernel<<<ceil_div(params.rows, kThreads / 32), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
