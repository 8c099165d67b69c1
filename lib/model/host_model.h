#pragma once
// A model's layers on the CPU, in float: for the CPU backend, whose tensors are host memory. A row's results
// have the same bits whatever rows are beside it (linear.h). May be used by several threads at once.

#include <cstdint>
#include <vector>

#include "model/linear.h"
#include "model/model_compute.h"
#include "model/rope.h"
#include "model/weight_source.h"

namespace hindsight {

class HostModel final : public ModelCompute {
 public:
  /// Reads and packs all weights, widened to float.
  HostModel(const ModelConfig& config, const WeightSource& source);

  int64_t weight_bytes() const override;
  // Rows on their way are each call's own.
  std::vector<std::shared_ptr<Storage>> workspace() const override { return {}; }
  int64_t workspace_bytes() const override { return 0; }
  DType attention_dtype() const override { return DType::float32; }
  void embed(Tensor<int32_t, 1> tokens, Tensor<float, 2> x) const override;
  void project(int64_t layer, Tensor<float, 2> x, Tensor<int32_t, 1> positions,
               const ProjectedRows& rows) const override;
  void finish_layer(int64_t layer, const ChosenRows& attended, Tensor<float, 2> x) const override;
  void logits(Tensor<float, 2> x, Tensor<float, 2> logits) const override;

 private:
  struct LayerWeights {
    std::vector<float> attention_norm, ffn_norm;  ///< [hidden]
    std::vector<float> q_norm, k_norm;            ///< [d]; empty where the family has none
    Linear q, k, v, output;
    Linear gate, up, down;
  };

  ModelConfig config_;
  RotaryEmbedding rope_;
  std::vector<float> embedding_;  ///< [vocabulary, hidden]
  std::vector<float> final_norm_;
  Linear head_;
  std::vector<LayerWeights> layers_;
};

}  // namespace hindsight
