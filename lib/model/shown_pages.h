#pragma once
// What every position of a window has been shown, as sets: for attending again to all of it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

#include "model/window_rows.h"

namespace hindsight {

class ShownPages {
 public:
  ShownPages(int64_t kept_rows, int64_t units)
      : units_(units), sets_(static_cast<size_t>(kept_rows * units)) {}

  /// The row is that of another position now.
  void clear(int64_t kept_row) {
    for (int64_t unit = 0; unit < units_; ++unit) at(kept_row, unit).clear();
  }
  /// Adds pages (ascending) that a query has been shown, up to the page `last` that holds its own position.
  void add(int64_t kept_row, int64_t unit, std::span<const int32_t> pages, int32_t last) {
    std::vector<int32_t>& set = at(kept_row, unit);
    std::vector<int32_t> all;
    const auto end = std::upper_bound(pages.begin(), pages.end(), last);
    std::set_union(set.begin(), set.end(), pages.begin(), end, std::back_inserter(all));
    set = std::move(all);
  }
  const std::vector<int32_t>& pages(int64_t kept_row, int64_t unit) const {
    return sets_[static_cast<size_t>(kept_row * units_ + unit)];
  }
  void move_rows(std::span<const RowMove> moves) {
    for (const RowMove& move : moves)
      std::copy_n(sets_.begin() + move.from * units_, move.n * units_, sets_.begin() + move.to * units_);
  }

 private:
  std::vector<int32_t>& at(int64_t kept_row, int64_t unit) {
    return sets_[static_cast<size_t>(kept_row * units_ + unit)];
  }
  int64_t units_;
  std::vector<std::vector<int32_t>> sets_;  ///< ascending
};

}  // namespace hindsight
