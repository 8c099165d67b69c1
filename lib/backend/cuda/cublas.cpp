#include "backend/cuda/cublas.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <library_types.h>

#include <array>
#include <stdexcept>
#include <string>

#include "core/error.h"

namespace hindsight::cuda {
namespace {

// Of cublas_api.h, which need not be installed where this is built; the values are part of its ABI.
constexpr int success = 0, op_none = 0, op_transpose = 1, compute_float = 68, default_algorithm = -1;
constexpr int64_t workspace_size = 32 << 20;  // what NVIDIA advises for compute capability 9.0

/// The newest that is installed: where the loader looks, then where toolkits are.
void* open_library() {
  for (const char* name : {"libcublas.so.13", "libcublas.so.12"})
    for (const char* folder : {"", "/usr/local/cuda/lib64/", "/usr/local/cuda-13/lib64/",
                               "/usr/local/cuda-12/lib64/", "/usr/lib/x86_64-linux-gnu/"})
      if (void* library = dlopen((std::string(folder) + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  throw EnvironmentError(
      "cuBLAS was not found: neither libcublas.so.13 nor libcublas.so.12 is where the loader looks or in "
      "/usr/local/cuda/lib64; a model on CUDA needs one: install it or set LD_LIBRARY_PATH, or use --device "
      "cpu");
}

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) throw EnvironmentError(fmt::format("cuBLAS lacks {}: this is no cuBLAS 12 or 13", name));
}

cudaDataType data_type(DType type) {
  switch (type) {
    case DType::float16:
      return CUDA_R_16F;
    case DType::bfloat16:
      return CUDA_R_16BF;
    case DType::float32:
      return CUDA_R_32F;
  }
  throw std::invalid_argument("unknown storage type");
}

}  // namespace

struct Cublas::Functions {
  Functions() {
    void* const library = open_library();  // for the life of the process: the driver keeps what it loaded
    find(library, "cublasCreate_v2", create);
    find(library, "cublasDestroy_v2", destroy);
    find(library, "cublasSetStream_v2", set_stream);
    find(library, "cublasSetWorkspace_v2", set_workspace);
    find(library, "cublasGemmEx", gemm);
    find(library, "cublasGetStatusString", status_string);
  }
  int (*create)(void**);
  int (*destroy)(void*);
  int (*set_stream)(void*, cudaStream_t);
  int (*set_workspace)(void*, void*, size_t);
  int (*gemm)(void*, int, int, int, int, int, const void*, const void*, cudaDataType, int, const void*,
              cudaDataType, int, const void*, void*, cudaDataType, int, int, int);
  const char* (*status_string)(int);
};

Cublas::Cublas(std::shared_ptr<Device> device)
    : device_(std::move(device)),
      functions_(std::make_unique<Functions>()),
      workspace_(device_, workspace_size) {
  device_->use();
  check(functions_->create(&handle_), "cublasCreate");
  check(functions_->set_stream(handle_, device_->stream()), "cublasSetStream");
  check(functions_->set_workspace(handle_, workspace_.data(), static_cast<size_t>(workspace_.bytes())),
        "cublasSetWorkspace");
}

Cublas::~Cublas() {
  if (handle_ && cudaSetDevice(device_->index()) == cudaSuccess) functions_->destroy(handle_);
}

void Cublas::check(int status, const char* what) const {
  if (status != success)
    throw EnvironmentError(fmt::format("{} failed on cuda:{} {}: {}", what, device_->index(), device_->name(),
                                       functions_->status_string(status)));
}

void Cublas::multiply(DType type, const void* weights, int64_t outputs, int64_t inputs, const void* x,
                      int64_t rows, float* y, bool add) {
  if (rows == 0 || !device_->enqueues()) return;
  device_->use();
  const float one = 1, beta = add ? 1.0f : 0.0f;
  const auto m = static_cast<int>(outputs), n = static_cast<int>(rows), k = static_cast<int>(inputs);
  // Column-major there: y^T = W x^T.
  check(functions_->gemm(handle_, op_transpose, op_none, m, n, k, &one, weights, data_type(type), k, x,
                         data_type(type), k, &beta, y, CUDA_R_32F, m, compute_float, default_algorithm),
        "cublasGemmEx");
}

}  // namespace hindsight::cuda
