#include "backend/cuda/check.h"

#include <fmt/format.h>

#include <string_view>

#include "core/error.h"

namespace hindsight::cuda {
namespace {

/// What the user can do about it, where that is known.
std::string_view advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "; the GPU's memory is full: replay fewer layers, steps or sequences at a time";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "; this build holds no code for this GPU: build with -DCMAKE_CUDA_ARCHITECTURES=native, or use "
             "--device cpu";
    case cudaErrorInsufficientDriver:
      return "; the NVIDIA driver is older than this build's CUDA: update it, or use --device cpu";
    default:
      return "";
  }
}

}  // namespace

void cuda_check(cudaError_t status, std::source_location where) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a failed launch must not be reported a second time, by the next one
  std::string_view file = where.file_name();
  if (const size_t at = file.rfind("lib/backend"); at != std::string_view::npos) file.remove_prefix(at);
  throw EnvironmentError(fmt::format("CUDA failed at {}:{}: {} ({}){}", file, where.line(),
                                     cudaGetErrorName(status), cudaGetErrorString(status), advice(status)));
}

}  // namespace hindsight::cuda
