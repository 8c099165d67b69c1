#pragma once
// cuBLAS, found when a model is first computed: whoever replays traces needs no more than the driver.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "backend/cuda/device.h"

namespace hindsight::cuda {

class Cublas {
 public:
  /// Loads the library and makes a handle on the device's stream. Throws EnvironmentError where there is
  /// none.
  explicit Cublas(std::shared_ptr<Device> device);
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  /// y [rows, outputs] = x [rows, inputs] W^T (+ y): row-major; x and W have the type, y is float, and so are
  /// the sums.
  void multiply(DType type, const void* weights, int64_t outputs, int64_t inputs, const void* x, int64_t rows,
                float* y, bool add);
  int64_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  struct Functions;
  void check(int status, const char* what) const;

  std::shared_ptr<Device> device_;
  std::unique_ptr<Functions> functions_;
  DeviceMemory workspace_;  ///< given to cuBLAS, which would else allocate, also while a graph is recorded
  void* handle_ = nullptr;
};

}  // namespace hindsight::cuda
