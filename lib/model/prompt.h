#pragma once
// A prompt, attended densely (neither Quest nor RetroAttention makes the prefill sparse): where every method
// starts from, so it is computed once for all of them.

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/model.h"

namespace hindsight {

/// Rows that go through the model at once: enough that weights are used often, few enough to stay small.
constexpr int64_t prefill_chunk_tokens = 256;

struct Prompt {
  int64_t n_tokens = 0;
  std::vector<std::vector<float>> k, v;  ///< per layer [P, Hkv, d], as they stand in a cache
  std::vector<float> logits;             ///< [vocabulary] of the token after the last
  int64_t bytes() const;
};

/// Queries, keys and values of rows on the host: [n, Hq, d], [n, Hkv, d], [n, Hkv, d].
struct Projected {
  std::vector<float> q, k, v;
};

/// Sees rows as they are computed, in chunks: those of positions from first_position on.
class PrefillObserver {
 public:
  virtual ~PrefillObserver() = default;
  /// What attention of the layer works on.
  virtual void on_projected(int64_t /*layer*/, int64_t /*first_position*/, const Projected& /*rows*/) {}
  /// The residual stream x [n, hidden] after the layer, on the backend; the next layer overwrites it.
  virtual void on_layer(int64_t /*layer*/, int64_t /*first_position*/, const Tensor<float, 2>& /*x*/) {}
  /// A chunk begins; what it throws ends the prefill.
  virtual void on_chunk(int64_t /*first_position*/) {}
};

/// Runs the tokens through the model in chunks. Throws std::invalid_argument where there is none.
Prompt prefill(const Model& model, Backend& backend, std::span<const int32_t> tokens,
               PrefillObserver* observer = nullptr);

}  // namespace hindsight
