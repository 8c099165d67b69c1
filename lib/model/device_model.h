#pragma once
// A model's layers on a device, by its backend's ModelPrimitives. For one thread at a time.

#include <cstdint>
#include <vector>

#include "model/model_compute.h"
#include "model/weight_source.h"

namespace hindsight {

/// What a device rounds on the way through a model. Weights are what they are stored as in either case.
enum class Precision {
  float32,  ///< little: activations go into products in two parts, attention keeps float32. As the CPU does
            ///< it
  storage,  ///< as models are served: activations, queries, keys and values in the type of the weights
};

class DeviceModel final : public ModelCompute {
 public:
  /// Loads all weights. `backend` has ModelPrimitives and outlives the model. Throws EnvironmentError where
  /// they do not fit.
  DeviceModel(const ModelConfig& config, const WeightSource& source, Backend& backend, Precision precision);

  int64_t weight_bytes() const override;
  std::vector<std::shared_ptr<Storage>> workspace() const override;
  int64_t workspace_bytes() const override;
  DType attention_dtype() const override { return attention_dtype_; }
  void embed(Tensor<int32_t, 1> tokens, Tensor<float, 2> x) const override;
  void project(int64_t layer, Tensor<float, 2> x, Tensor<int32_t, 1> positions,
               const ProjectedRows& rows) const override;
  void finish_layer(int64_t layer, const ChosenRows& attended, Tensor<float, 2> x) const override;
  void logits(Tensor<float, 2> x, Tensor<float, 2> logits) const override;

 private:
  struct LayerWeights {
    Tensor<float, 1> attention_norm, ffn_norm, output_bias;
    ModelPrimitives::HeadsOf heads;
    Matrix qkv, output, gate_up, down;  ///< rows of q, k and v, and of gate and up, one after the other
  };
  /// Memory of rows on their way, kept and only made larger.
  struct Rows {
    std::shared_ptr<Storage> memory;
  };

  Matrix load_matrix(const WeightSource& source, const std::vector<std::string>& names, int64_t outputs,
                     int64_t inputs) const;
  Tensor<float, 1> load_vector(const WeightSource& source, const std::vector<std::string>& names) const;
  Tensor<float, 2> rows(Rows& kept, int64_t n, int64_t width) const;
  Operand operand(Rows& kept, const Matrix& matrix, int64_t n) const;
  void* at_least(Rows& kept, int64_t bytes) const;

  ModelConfig config_;
  Backend& backend_;
  ModelPrimitives& math_;
  Precision precision_;
  DType attention_dtype_;
  Matrix embedding_, head_;
  Tensor<float, 1> final_norm_;
  std::vector<LayerWeights> layers_;
  mutable Rows normed_, attended_, gated_;  ///< operands
  mutable Rows qkv_, gate_up_;              ///< results of products
};

}  // namespace hindsight
