#include "model/layer_rows.h"

#include <algorithm>

namespace hindsight {

LayerRows::LayerRows(Backend& backend, int64_t sequences, int64_t window)
    : block(backend.make_block(std::vector<BlockStep>(static_cast<size_t>(sequences)))),
      numbers_(backend.make_tensor<int32_t, 1>({2 * sequences * window + 2 * sequences})) {}

void LayerRows::set(Backend& backend, std::vector<WindowSpan> of) {
  spans = std::move(of);
  ranges.clear();
  std::vector<int32_t> numbers, kept_rows, newest_rows, newest_kept_rows;
  std::vector<BlockStep> steps;
  for (const WindowSpan& span : spans) {
    ranges.push_back({span.sequence, span.first_position(), span.rows, static_cast<int64_t>(numbers.size())});
    for (int64_t i = 0; i < span.rows; ++i) {
      numbers.push_back(static_cast<int32_t>(span.first_position() + i));
      kept_rows.push_back(static_cast<int32_t>(span.first_kept_row() + i));
    }
    newest_rows.push_back(static_cast<int32_t>(numbers.size()) - 1);
    newest_kept_rows.push_back(static_cast<int32_t>(span.kept_row));
    steps.push_back({static_cast<int32_t>(span.sequence), static_cast<int32_t>(span.position),
                     static_cast<int32_t>(span.kept_row), static_cast<int32_t>(span.rows)});
  }
  const auto rows = static_cast<int64_t>(numbers.size()), n = static_cast<int64_t>(spans.size());
  for (const auto* more : {&kept_rows, &newest_rows, &newest_kept_rows})
    numbers.insert(numbers.end(), more->begin(), more->end());
  backend.upload(numbers_.data(), numbers.data(), static_cast<int64_t>(numbers.size() * sizeof(int32_t)));
  positions = backend.rows_of(numbers_, 0, rows);
  kept = backend.rows_of(numbers_, rows, rows);
  newest = backend.rows_of(numbers_, 2 * rows, n);
  newest_kept = backend.rows_of(numbers_, 2 * rows + n, n);
  backend.replace_steps(block, std::move(steps));
}

int64_t LayerRows::window() const {
  int64_t most = 1;
  for (const WindowSpan& span : spans) most = std::max(most, span.rows);
  return most;
}

std::vector<WindowSpan> LayerRows::newest_spans() const {
  std::vector<WindowSpan> newest_only = spans;
  for (WindowSpan& span : newest_only) span.rows = 1;
  return newest_only;
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
