#pragma once
// A model ready to compute on the CPU, in float, and the parts of a layer around attention. Rows are
// row-major; a row's results have the same bits whatever rows are beside it (linear.h).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/linear.h"
#include "model/rope.h"

namespace hindsight {

struct LayerWeights {
  std::vector<float> attention_norm, ffn_norm;  ///< [hidden]
  std::vector<float> q_norm, k_norm;            ///< [d]; empty where the family has none
  Linear q, k, v, output;
  Linear gate, up, down;
};

/// Queries, keys and values of rows, after bias, norm and rotation: [n, Hq, d], [n, Hkv, d], [n, Hkv, d].
struct Projected {
  std::vector<float> q, k, v;
};

class Model {
 public:
  /// Reads and packs all weights, widened to float. Throws InputError where one is not finite.
  explicit Model(const Checkpoint& checkpoint);

  const ModelConfig& config() const { return config_; }
  int64_t bytes() const;

  /// [n, hidden] of n tokens. Throws std::out_of_range for a token that the vocabulary lacks.
  std::vector<float> embed(std::span<const int32_t> tokens) const;
  /// What attention of `layer` works on, from the residual stream x [n, hidden] at these positions.
  Projected project(int64_t layer, std::span<const float> x, std::span<const int32_t> positions) const;
  /// Adds to x [n, hidden] the projected result of attention [n, Hq, d], then the feed-forward network of it.
  void finish_layer(int64_t layer, std::span<const float> attended, std::span<float> x) const;
  /// [n, vocabulary] from the residual stream after the last layer.
  std::vector<float> logits(std::span<const float> x) const;

 private:
  ModelConfig config_;
  RotaryEmbedding rope_;
  std::vector<float> embedding_;  ///< [vocabulary, hidden]
  std::vector<float> final_norm_;
  Linear head_;
  std::vector<LayerWeights> layers_;
};

}  // namespace hindsight
