#pragma once
// What is counted of the page set of one step and unit: the layout that backends write and metrics read, so
// that no page list leaves the device.

#include <cstdint>

namespace hindsight {

/// Columns of the counts of S_t, the pages that step t loaded for a unit; the window is w.
struct SelectionColumns {
  static constexpr int64_t loaded = 0;       ///< |S_t|
  static constexpr int64_t kept = 1;         ///< |S_t and S_(t-1)|; 0 at the first replayed step
  static constexpr int64_t best = 2;         ///< pages that the oracle would have loaded
  static constexpr int64_t best_loaded = 3;  ///< of these, the ones in S_t
  /// Tokens of S_t, without pages that a lower unit of the same KV head loads too: their sum over the units
  /// of a KV head is what is loaded for it.
  static constexpr int64_t own_tokens = 4;
  /// Pages of S_t not in S_(t-1) that existed then, by their rank among the scores of step t-1, in units of
  /// |S_(t-1)|: [0, 1), [1, 2) ... [7, 8), and beyond.
  static constexpr int64_t late_ranks = 5, late_rank_bins = 9;
  /// w columns: tokens that step t shows to the query s steps before it for the first time, s = 0 .. w-1. For
  /// s = 0 these are all tokens of S_t. They come last and nothing else depends on w: what is counted for a
  /// window begins with what is counted for a smaller one.
  static constexpr int64_t shown = late_ranks + late_rank_bins;
  static constexpr int64_t count(int64_t window) { return shown + window; }
};

}  // namespace hindsight
