#pragma once
// A transformer's layers on CUDA: products of few rows by a kernel that reads weights at the speed of memory,
// others by cuBLAS, the rest by kernels/transformer.cu; all on the backend's stream.

#include "backend/cuda/cublas.h"
#include "backend/model_primitives.h"

namespace hindsight::cuda {

class CudaModelPrimitives final : public ModelPrimitives {
 public:
  explicit CudaModelPrimitives(std::shared_ptr<Device> device);

  void embed(const Matrix& embedding, Tensor<int32_t, 1> tokens, Tensor<float, 2> x) override;
  void rms_norm(Tensor<float, 2> x, Tensor<float, 1> weight, double epsilon, const Operand& to) override;
  void to_operand(const ChosenRows& rows, const Operand& to) override;
  void gate(Tensor<float, 2> gate_up, const Operand& to) override;
  void multiply(const Matrix& matrix, const Operand& x, Tensor<float, 2> y, bool add) override;
  void add_bias(Tensor<float, 2> x, Tensor<float, 1> bias) override;
  void split_heads(Tensor<float, 2> rows, const HeadsOf& heads, Tensor<int32_t, 1> positions,
                   Tensor<float, 3> q, Tensor<float, 3> k, Tensor<float, 3> v) override;
  int64_t workspace_bytes() const override { return cublas_.workspace_bytes(); }

 private:
  std::shared_ptr<Device> device_;
  Cublas cublas_;
};

}  // namespace hindsight::cuda
