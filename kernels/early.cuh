#pragma once
// Kernels that are short beside the time between two launches: one may be set up, and on compute capability
// 9.0 its blocks may start, while the kernel ahead of it in the stream ends.

#include <cuda_runtime_api.h>

#include "kernels/cluster.cuh"

namespace hindsight::kernels {

/// The first thing that a kernel launched by launch_early() does.
__device__ inline void wait_after_early_launch() {
  let_next_grid_start();
  wait_for_previous_grid();
}

/// Whether the current device lets kernels start early.
inline bool starts_early() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

/// Of a kernel that calls wait_for_previous_grid() before it reads what may have been written just now.
template <class... Parameters>
cudaError_t launch_early_with(void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes,
                              cudaStream_t stream, const Parameters&... parameters) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = starts_early() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, parameters...);
}

template <class Params>
cudaError_t launch_early(void (*kernel)(Params), dim3 grid, dim3 block, const Params& params,
                         cudaStream_t stream, int shared_bytes = 0) {
  return launch_early_with(kernel, grid, block, shared_bytes, stream, params);
}

}  // namespace hindsight::kernels
