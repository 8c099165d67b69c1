#pragma once
// What the layers of a transformer do around attention, on a device. Rows of activations are float tensors of
// the backend, row-major; weights stay in the type that they are stored in, and products are summed in float.
// What a product takes is an operand: rows rounded to its weights' type. Where that loses too much, a second
// part holds what rounding lost: both together are within 2^-17 (bfloat16) of the row, or within 2^-23
// (float16) for elements from 0.1 on; below, float16's smallest numbers limit the second part (1e-3: 2^-14),
// and beyond 65504 there is no operand.
//
// As with Backend: primitives may return before the work is done, and nothing is shown to the host.

#include <memory>

#include "backend/backend.h"

namespace hindsight {

/// Weights of a linear layer, [outputs, inputs] row-major.
struct Matrix {
  std::shared_ptr<Storage> storage;
  DType dtype = DType::float32;
  int64_t outputs = 0, inputs = 0;
  int64_t bytes() const { return outputs * inputs * size_of(dtype); }
};

/// Rows that a product takes: [parts, rows, width] in the type of its weights.
struct Operand {
  std::shared_ptr<Storage> storage;
  DType dtype = DType::float32;
  int64_t parts = 1, rows = 0, width = 0;
};

/// Rows of a tensor: those of `index`, or all in order where it is empty.
struct ChosenRows {
  Tensor<float, 2> values;
  Tensor<int32_t, 1> index;
  int64_t size() const { return index.data() ? index.shape[0] : values.shape[0]; }
};

class ModelPrimitives {
 public:
  virtual ~ModelPrimitives() = default;

  /// x[i] = row tokens[i] of the embedding. Tokens are not checked.
  virtual void embed(const Matrix& embedding, Tensor<int32_t, 1> tokens, Tensor<float, 2> x) = 0;
  /// x / sqrt(mean(x^2) + epsilon) * weight of every row.
  virtual void rms_norm(Tensor<float, 2> x, Tensor<float, 1> weight, double epsilon, const Operand& to) = 0;
  virtual void to_operand(const ChosenRows& rows, const Operand& to) = 0;
  /// silu(gate) * up of rows [gate, up].
  virtual void gate(Tensor<float, 2> gate_up, const Operand& to) = 0;
  /// y = W x, or y += W x.
  virtual void multiply(const Matrix& matrix, const Operand& x, Tensor<float, 2> y, bool add) = 0;
  virtual void add_bias(Tensor<float, 2> x, Tensor<float, 1> bias) = 0;

  /// What becomes of rows [q, k, v] of a projection.
  struct HeadsOf {
    Tensor<float, 1> bias;            ///< [(Hq + 2 Hkv) d], or empty
    Tensor<float, 1> q_norm, k_norm;  ///< [d], or empty: RMS norm of every head's query and key
    double epsilon = 0;
    Tensor<float, 1> frequencies;  ///< [d/2]: angle per token of each pair
  };
  /// Adds the bias, norms and rotates (halves of a head against each other), row i to positions[i].
  virtual void split_heads(Tensor<float, 2> rows, const HeadsOf& heads, Tensor<int32_t, 1> positions,
                           Tensor<float, 3> q, Tensor<float, 3> k, Tensor<float, 3> v) = 0;
  /// Bytes that the primitives keep for themselves.
  virtual int64_t workspace_bytes() const = 0;
};

}  // namespace hindsight
