#pragma once
// Where the rows of the positions in a window are kept: hidden rows, outputs, queries.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hindsight {

/// Rows [from, from + n) move to [to, to + n); they do not overlap.
struct RowMove {
  int64_t from = 0, to = 0, n = 0;
};

/// The positions of one sequence that a step computes, oldest first: `rows` positions that end with
/// `position`.
struct WindowSpan {
  int64_t sequence = 0, position = 0, rows = 1;
  int64_t kept_row = 0;  ///< where the newest is kept; the others before it
  int64_t first_position() const { return position - rows + 1; }
  int64_t first_kept_row() const { return kept_row - rows + 1; }
};

/// Rows of the last w positions of every sequence, one after the other without gaps, so that the row of
/// position - s is row - s. There is room for 2w rows: a sequence moves its last w - 1 to the front when it
/// has filled them.
class WindowRows {
 public:
  WindowRows(int64_t sequences, int64_t window)
      : window_(window), next_(static_cast<size_t>(sequences)), filled_(static_cast<size_t>(sequences)) {}

  int64_t window() const { return window_; }
  int64_t total_rows() const { return static_cast<int64_t>(next_.size()) * room(); }

  /// Makes a row for the next position of a sequence. Adds to `moves` what must move before.
  WindowSpan push(int64_t sequence, int64_t position, std::vector<RowMove>& moves) {
    int64_t& next = next_[sequence];
    const int64_t base = sequence * room();
    if (next == room()) {
      if (window_ > 1) moves.push_back({base + next - (window_ - 1), base, window_ - 1});
      next = window_ - 1;
    }
    int64_t& filled = filled_[sequence];
    if (filled < window_) ++filled;
    return {sequence, position, filled, base + next++};
  }

 private:
  int64_t room() const { return 2 * window_; }

  int64_t window_;
  std::vector<int64_t> next_, filled_;
};

}  // namespace hindsight
