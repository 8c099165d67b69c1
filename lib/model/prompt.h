#pragma once
// A prompt, attended densely (neither Quest nor RetroAttention makes the prefill sparse): where every method
// starts from, so it is computed once for all of them.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/model.h"

namespace hindsight {

struct Prompt {
  int64_t n_tokens = 0;
  std::vector<std::vector<float>> k, v;  ///< per layer [P, Hkv, d], as they stand in a cache
  std::vector<float> logits;             ///< [vocabulary] of the token after the last
  int64_t bytes() const;
};

/// Sees the rows of a layer as they are computed, those of positions from first_position on.
using RowObserver = std::function<void(int64_t layer, int64_t first_position, const Projected& rows)>;

/// Runs the tokens through the model in chunks. Throws std::invalid_argument where there is none.
/// `between_chunks` may throw to end it.
Prompt prefill(const Model& model, Backend& backend, std::span<const int32_t> tokens,
               const RowObserver& observer = {}, const std::function<void()>& between_chunks = {});

/// What of a model's layer attention depends on.
LayerShape layer_shape(const ModelConfig& config, int64_t layer);

/// Rows of [n, heads, d] on the backend.
Tensor<float, 3> on_backend(Backend& backend, std::span<const float> rows, int64_t heads, int64_t head_dim);

}  // namespace hindsight
