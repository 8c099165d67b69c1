#pragma once
// Every CUDA call passes through cuda_check: a failure becomes an EnvironmentError that names the place.

#include <cuda_runtime_api.h>

#include <source_location>

namespace hindsight::cuda {

/// Throws EnvironmentError, with CUDA's name and description of the error and where the call stands, unless
/// status is cudaSuccess.
void cuda_check(cudaError_t status, std::source_location where = std::source_location::current());

}  // namespace hindsight::cuda
