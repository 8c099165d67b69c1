#include "model/layer_rows.h"

#include <algorithm>

namespace hindsight {

LayerRows::LayerRows(Backend& backend, std::vector<WindowSpan> of) : spans(std::move(of)) {
  std::vector<int32_t> at, kept_rows, newest_rows;
  std::vector<BlockStep> steps;
  for (const WindowSpan& span : spans) {
    ranges.push_back({span.sequence, span.first_position(), span.rows, static_cast<int64_t>(at.size())});
    for (int64_t i = 0; i < span.rows; ++i) {
      at.push_back(static_cast<int32_t>(span.first_position() + i));
      kept_rows.push_back(static_cast<int32_t>(span.first_kept_row() + i));
    }
    newest_rows.push_back(static_cast<int32_t>(at.size()) - 1);
    steps.push_back({static_cast<int32_t>(span.sequence), static_cast<int32_t>(span.position),
                     static_cast<int32_t>(span.kept_row), static_cast<int32_t>(span.rows)});
  }
  positions = backend.make_numbers(at);
  kept = backend.make_numbers(kept_rows);
  newest = backend.make_numbers(newest_rows);
  block = backend.make_block(std::move(steps));
}

int64_t LayerRows::window() const {
  int64_t most = 1;
  for (const WindowSpan& span : spans) most = std::max(most, span.rows);
  return most;
}

LayerRows newest_of(Backend& backend, const LayerRows& rows) {
  std::vector<WindowSpan> newest = rows.spans;
  for (WindowSpan& span : newest) span.rows = 1;
  return LayerRows(backend, std::move(newest));
}

KeptRowMoves::KeptRowMoves(Backend& backend, std::span<const RowMove> all) : moves(all.begin(), all.end()) {
  std::vector<int32_t> from_rows, to_rows;
  for (const RowMove& move : moves)
    for (int64_t i = 0; i < move.n; ++i) {
      from_rows.push_back(static_cast<int32_t>(move.from + i));
      to_rows.push_back(static_cast<int32_t>(move.to + i));
    }
  from = backend.make_numbers(from_rows);
  to = backend.make_numbers(to_rows);
}

void KeptRowMoves::apply(Backend& backend, const Tensor<float, 2>& rows) const {
  backend.copy_rows(rows, from, rows, to, from.size());
}

}  // namespace hindsight
