#pragma once
// The rows that go through a layer together: positions of several sequences, one span after another.

#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/window_rows.h"

namespace hindsight {

/// On host and backend; set once a step and used by every layer. What is on the backend stays where it is.
class LayerRows {
 public:
  /// Room for spans of up to `sequences` sequences and `window` rows each.
  LayerRows(Backend& backend, int64_t sequences, int64_t window);
  /// Not empty.
  void set(Backend& backend, std::vector<WindowSpan> of);

  int64_t size() const { return positions.size(); }
  /// Most rows of a span.
  int64_t window() const;
  /// The newest position of each span alone.
  std::vector<WindowSpan> newest_spans() const;

  std::vector<WindowSpan> spans;
  std::vector<RowRange> ranges;    ///< of each span, in rows of this step
  Tensor<int32_t, 1> positions;    ///< [rows]
  Tensor<int32_t, 1> kept;         ///< [rows] where each is kept
  Tensor<int32_t, 1> newest;       ///< [spans] row of the newest position of each span
  Tensor<int32_t, 1> newest_kept;  ///< [spans] where that is kept
  Block block;                     ///< [spans] the newest positions with their windows; rows are kept rows

 private:
  Tensor<int32_t, 1> numbers_;  ///< the four arrays, one after another
};

/// The rows of moves that are made together, on the backend.
struct KeptRowMoves {
  KeptRowMoves(Backend& backend, std::span<const RowMove> moves);
  /// Rows that leave and rows that are replaced do not overlap (WindowRows).
  void apply(Backend& backend, const Tensor<float, 2>& rows) const;

  std::vector<RowMove> moves;
  Tensor<int32_t, 1> from, to;
};

/// Rows of all dimensions but the first in one.
template <int Rank>
Tensor<float, 2> flat_rows(const Tensor<float, Rank>& tensor) {
  const int64_t n = tensor.shape[0];
  return {tensor.storage, {n, n > 0 ? tensor.size() / n : 0}, tensor.byte_offset};
}

}  // namespace hindsight
