#pragma once
// Rotary embedding (RoFormer, arXiv 2104.09864, section 3.2), halves rotated against each other as Hugging
// Face's files expect.

#include <cstdint>
#include <span>
#include <vector>

#include "model/model_config.h"

namespace hindsight {

class RotaryEmbedding {
 public:
  RotaryEmbedding() = default;
  RotaryEmbedding(const RopeConfig& config, int64_t head_dim);

  /// Rotates rows [n, heads, d] in place, row r to positions[r].
  void rotate(float* rows, std::span<const int32_t> positions, int64_t heads) const;
  /// Angle per token of each pair, [d/2], in the float32 that the models were trained with.
  const std::vector<float>& frequencies() const { return frequencies_; }

 private:
  std::vector<float> frequencies_;
};

}  // namespace hindsight
