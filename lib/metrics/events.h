#pragma once
// What a replay tells its observers. Plain arrays on the host: metrics know nothing of backends or methods.

#include <cstdint>
#include <span>
#include <vector>

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
  /// Tokens of a page that are visible at a position.
  int64_t tokens_of_page(int64_t page, int64_t position) const {
    const int64_t held = position + 1 - page * page_size;
    return held < 0 ? 0 : held < page_size ? held : page_size;
  }
};

/// Page lists of a block of steps: the pages of step i and unit u, ascending.
class PageSets {
 public:
  PageSets() = default;
  PageSets(std::vector<int32_t> pages, std::vector<int32_t> count, int64_t units, int64_t capacity)
      : pages_(std::move(pages)), count_(std::move(count)), units_(units), capacity_(capacity) {}
  std::span<const int32_t> at(int64_t i, int64_t unit) const {
    return {pages_.data() + (i * units_ + unit) * capacity_, static_cast<size_t>(count_[i * units_ + unit])};
  }

 private:
  std::vector<int32_t> pages_, count_;
  int64_t units_ = 0, capacity_ = 0;
};

/// A block of consecutive steps of one layer has selected its pages. Blocks come in order, without gaps.
struct SelectionEvent {
  int64_t layer = 0;  ///< index into ReplayShape::layers
  int64_t first_step = 0, n = 0;
  PageSets loaded;  ///< S_t, [n, U]
  PageSets best;    ///< as many pages with the largest true mass, [n, U]
  /// late_ranks.at(i, u)[c]: rank that the c-th page of loaded.at(i, u) had among the scores of the step
  /// before, -1 if it did not exist then. The first replayed step has none. Empty unless has_scores.
  PageSets late_ranks;
  bool has_late_ranks(int64_t i) const { return first_step + i > 0; }
};

/// All outputs of a layer are final. [n_steps, Hq] each; NaN where the reference is 0.
struct OutputEvent {
  int64_t layer = 0;
  std::vector<float> rel_l2_first, rel_l2_final, cosine_final, mass_recall_first, mass_recall_final;
};

}  // namespace hindsight
