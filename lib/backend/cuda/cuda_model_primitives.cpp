#include "backend/cuda/cuda_model_primitives.h"

#include <stdexcept>

#include "backend/cuda/check.h"
#include "backend/cuda/residency.h"
#include "kernels/kernels.h"

namespace hindsight::cuda {
namespace {

/// For `rows` of it.
kernels::Operand on_device(const Operand& operand, int64_t rows, int64_t width) {
  if (rows > operand.rows || width != operand.width)
    throw std::invalid_argument("an operand has another shape than its rows");
  return {element_type(operand.dtype), static_cast<int32_t>(operand.parts), operand.storage->data(),
          operand.rows * operand.width};
}

}  // namespace

CudaModelPrimitives::CudaModelPrimitives(std::shared_ptr<Device> device)
    : device_(std::move(device)), cublas_(device_) {}

void CudaModelPrimitives::embed(const Matrix& embedding, Tensor<int32_t, 1> tokens, Tensor<float, 2> x) {
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::embed({.type = element_type(embedding.dtype),
                               .embedding = embedding.storage->data(),
                               .tokens = tokens.data(),
                               .x = x.data(),
                               .n = tokens.size(),
                               .width = embedding.inputs},
                              device_->stream()));
}

void CudaModelPrimitives::rms_norm(Tensor<float, 2> x, Tensor<float, 1> weight, double epsilon,
                                   const Operand& to) {
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::norm_rows({.x = x.data(),
                                   .weight = weight.data(),
                                   .epsilon = static_cast<float>(epsilon),
                                   .to = on_device(to, x.shape[0], x.shape[1]),
                                   .n = x.shape[0],
                                   .width = x.shape[1]},
                                  device_->stream()));
}

void CudaModelPrimitives::to_operand(const ChosenRows& rows, const Operand& to) {
  const int64_t width = rows.values.shape[1];
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::round_rows({.x = rows.values.data(),
                                    .rows = rows.index.data(),
                                    .to = on_device(to, rows.size(), width),
                                    .n = rows.size(),
                                    .width = width},
                                   device_->stream()));
}

void CudaModelPrimitives::gate(Tensor<float, 2> gate_up, const Operand& to) {
  const int64_t n = gate_up.shape[0], width = gate_up.shape[1] / 2;
  device_->use();
  if (device_->enqueues())
    cuda_check(
        kernels::gate_rows({.gate_up = gate_up.data(), .to = on_device(to, n, width), .n = n, .width = width},
                           device_->stream()));
}

void CudaModelPrimitives::multiply(const Matrix& matrix, const Operand& x, Tensor<float, 2> y, bool add) {
  if (matrix.dtype != x.dtype || matrix.inputs != x.width || matrix.outputs != y.shape[1] ||
      y.shape[0] > x.rows)
    throw std::invalid_argument("a product's operands do not fit each other");
  const int64_t part_bytes = x.rows * x.width * size_of(x.dtype);
  for (int64_t part = 0; part < x.parts; ++part) {
    const kernels::FewRowsProductParams params{
        .type = element_type(matrix.dtype),
        .weights = matrix.storage->data(),
        .x = static_cast<const std::byte*>(x.storage->data()) + part * part_bytes,
        .y = y.data(),
        .n = y.shape[0],
        .outputs = matrix.outputs,
        .inputs = matrix.inputs,
        .add = add || part > 0};
    if (!kernels::takes_few_rows_product(params, device_->limits())) {
      cublas_.multiply(matrix.dtype, params.weights, params.outputs, params.inputs, params.x, params.n,
                       params.y, params.add);
      continue;
    }
    device_->use();
    if (device_->enqueues()) cuda_check(kernels::few_rows_product(params, device_->stream()));
  }
}

void CudaModelPrimitives::add_bias(Tensor<float, 2> x, Tensor<float, 1> bias) {
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::add_bias({.x = x.data(), .bias = bias.data(), .n = x.shape[0], .width = x.shape[1]},
                                 device_->stream()));
}

void CudaModelPrimitives::split_heads(Tensor<float, 2> rows, const HeadsOf& heads,
                                      Tensor<int32_t, 1> positions, Tensor<float, 3> q, Tensor<float, 3> k,
                                      Tensor<float, 3> v) {
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::split_heads({.rows = rows.data(),
                                     .bias = heads.bias.data(),
                                     .q_norm = heads.q_norm.data(),
                                     .k_norm = heads.k_norm.data(),
                                     .epsilon = static_cast<float>(heads.epsilon),
                                     .frequencies = heads.frequencies.data(),
                                     .positions = positions.data(),
                                     .q = q.data(),
                                     .k = k.data(),
                                     .v = v.data(),
                                     .n = rows.shape[0],
                                     .n_q_heads = static_cast<int32_t>(q.shape[1]),
                                     .n_kv_heads = static_cast<int32_t>(k.shape[1]),
                                     .head_dim = static_cast<int32_t>(q.shape[2])},
                                    device_->stream()));
}

}  // namespace hindsight::cuda
