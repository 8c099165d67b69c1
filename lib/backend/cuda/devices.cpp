// What devices there are, and the way to a backend on one of them.

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "backend/backend.h"
#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"
#include "core/error.h"

namespace hindsight {

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver, or none that is new enough: no device
  return 0;
}

bool cuda_built_in() { return true; }

std::vector<std::string> cuda_device_names() {
  std::vector<std::string> names;
  for (int index = 0; index < cuda_device_count(); ++index) {
    cudaDeviceProp properties{};
    cuda::cuda_check(cudaGetDeviceProperties(&properties, index));
    names.push_back(fmt::format("cuda:{} {} (compute capability {}.{}, {:.1f} GiB)", index, properties.name,
                                properties.major, properties.minor,
                                static_cast<double>(properties.totalGlobalMem) / (1u << 30)));
  }
  return names;
}

std::unique_ptr<Backend> make_cuda_backend(int index) {
  const int count = cuda_device_count();
  if (count == 0)
    throw EnvironmentError(
        fmt::format("device cuda:{}: no CUDA device can be used (no GPU, no NVIDIA driver, or one older than "
                    "CUDA {}); use "
                    "--device cpu",
                    index, CUDART_VERSION / 1000));
  if (index < 0 || index >= count)
    throw EnvironmentError(
        fmt::format("device cuda:{} does not exist; this machine has cuda:0 to cuda:{}", index, count - 1));
  return std::make_unique<cuda::CudaBackend>(index);
}

}  // namespace hindsight
