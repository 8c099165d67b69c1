#pragma once
// How many pages a step may load (retroattention paper, section 2 notation: B, k).

#include <cstdint>

#include "config/parameters.h"

namespace hindsight {

/// Pages that exist at a position: those of tokens 0..position.
inline int64_t pages_at(int64_t position, int64_t page_size) { return position / page_size + 1; }

/// A token budget and its rounding to pages.
class Budget {
 public:
  /// Reads page_size, budget.tokens or budget.ratio (with budget.min_tokens), k_min and full_when.
  explicit Budget(const ParameterSet& parameters);

  /// Tokens allowed at a position, t + 1 tokens being visible.
  double tokens(int64_t position) const;
  /// Pages to load: all that exist once the budget covers the context, else min(pages, max(k_min,
  /// floor(B/p))).
  int64_t pages(int64_t position) const;

 private:
  int64_t page_size_ = 16;
  bool fixed_ = false;  // a number of tokens; otherwise a share of the context
  double tokens_ = 0, ratio_ = 1, min_tokens_ = 0;
  int64_t k_min_ = 0;
  bool full_by_tokens_ = true;
};

}  // namespace hindsight
