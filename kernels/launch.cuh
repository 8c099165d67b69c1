#pragma once
// Launches that follow one another closely (programmatic dependent launch, compute capability 9.0): a grid
// may take places that the grid before has left, and waits with wait_for_previous_grid() before it reads.
// Below 9.0 these are plain launches, and the instructions do nothing.

#include <cuda_runtime_api.h>

namespace hindsight::kernels {

inline cudaError_t takes_dependent_launches(bool& takes) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  takes = major >= 9;
  return error;
}

/// Of a kernel that calls wait_for_previous_grid() before it reads or writes anything.
template <class... Parameters>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                             cudaStream_t stream, const Parameters&... parameters) {
  bool takes = false;
  const cudaError_t error = takes_dependent_launches(takes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = takes ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, parameters...);
}

}  // namespace hindsight::kernels
