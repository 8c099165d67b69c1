#pragma once
// A model's layers around attention, on tensors of a backend: what the host and a device do each in its way.
// Letters as in backend.h; n rows. Rows are float tensors of the backend that the model is used with.

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/model_primitives.h"
#include "model/model_config.h"

namespace hindsight {

/// Queries, keys and values of rows, after bias, norm and rotation: [n, Hq, d], [n, Hkv, d], [n, Hkv, d].
struct ProjectedRows {
  Tensor<float, 3> q, k, v;
};

class ModelCompute {
 public:
  virtual ~ModelCompute() = default;
  virtual int64_t weight_bytes() const = 0;
  /// What is kept for rows on their way, at present: whoever recorded what was done with it holds it.
  virtual std::vector<std::shared_ptr<Storage>> workspace() const = 0;
  /// Bytes of that and of what the backend keeps for products.
  virtual int64_t workspace_bytes() const = 0;
  /// What attention is to keep queries, keys and values in.
  virtual DType attention_dtype() const = 0;

  /// x [n, hidden] of n tokens, which the vocabulary has.
  virtual void embed(Tensor<int32_t, 1> tokens, Tensor<float, 2> x) const = 0;
  /// What attention of `layer` works on, from the residual stream x [n, hidden] at these positions.
  virtual void project(int64_t layer, Tensor<float, 2> x, Tensor<int32_t, 1> positions,
                       const ProjectedRows& rows) const = 0;
  /// Adds to x [n, hidden] the projected result of attention (rows of Hq*d), then the feed-forward network of
  /// it.
  virtual void finish_layer(int64_t layer, const ChosenRows& attended, Tensor<float, 2> x) const = 0;
  /// [n, vocabulary] from the residual stream after the last layer.
  virtual void logits(Tensor<float, 2> x, Tensor<float, 2> logits) const = 0;
};

}  // namespace hindsight
