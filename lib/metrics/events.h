#pragma once
// What a replay tells its observers. Plain arrays on the host: metrics know nothing of backends or methods.

#include <cstdint>
#include <span>
#include <vector>

#include "core/selection_counts.h"

namespace hindsight {

/// Constants of a point. Heads Hq, KV heads Hkv, units U (Hkv or Hq), n_steps replayed steps at positions
/// first_position + step.
struct ReplayShape {
  int64_t n_steps = 0, first_position = 0;
  std::vector<int64_t> layers;  ///< model indices of the sparse layers replayed
  int64_t n_q_heads = 0, n_kv_heads = 0, n_units = 0, head_dim = 0;
  int64_t page_size = 0;
  int64_t window = 1;                      ///< w
  std::vector<int64_t> element_bytes;      ///< of stored keys, values and queries, per layer
  int64_t metadata_elements_per_page = 0;  ///< that scoring reads, per KV head
  bool has_scores = false;                 ///< late ranks are given

  int64_t group() const { return n_q_heads / n_kv_heads; }
};

/// The page sets of all steps of a layer, counted. Comes before the layer's outputs.
struct SelectionEvent {
  int64_t layer = 0;  ///< index into ReplayShape::layers
  /// [n_steps, U, SelectionColumns::count(w)] of w or a larger window, which has the columns of w before
  /// others.
  std::vector<int32_t> counts;
  int64_t n_units = 0, n_columns = 0;
  int32_t at(int64_t step, int64_t unit, int64_t column) const {
    return counts[(step * n_units + unit) * n_columns + column];
  }
};

/// All outputs of a layer are final. [n_steps, Hq] each, valid during the call; NaN where the reference is 0.
struct OutputEvent {
  int64_t layer = 0;
  std::span<const float> rel_l2_first, rel_l2_final, cosine_final, mass_recall_first, mass_recall_final;
};

}  // namespace hindsight
