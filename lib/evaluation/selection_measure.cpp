#include "evaluation/selection_measure.h"

#include <algorithm>

#include "core/parallel.h"
#include "methods/retro.h"

namespace hindsight {
namespace {

/// Those of fewer sequences are counted before threads are awake.
constexpr int64_t spans_worth_threads = 16;

}  // namespace

SelectionMeasure::SelectionMeasure(int64_t first_position, int64_t first_layer, int64_t n_layers,
                                   int64_t window)
    : first_position_(first_position),
      first_layer_(first_layer),
      n_layers_(n_layers - first_layer),
      window_(window),
      shown_(static_cast<size_t>(n_layers_)) {}

void SelectionMeasure::take(int64_t layer, const WindowSpan& span, const PageSelection& selection,
                            int64_t row) {
  const auto index = static_cast<size_t>(layer - first_layer_);
  const size_t step = static_cast<size_t>(span.position - first_position_);
  const size_t cells = (step + 1) * static_cast<size_t>(n_layers_);
  const size_t cell = cells - static_cast<size_t>(n_layers_) + index;
  metrics_.effective_exposure.resize(std::max(cells, metrics_.effective_exposure.size()));
  std::vector<Shown>& units = shown_[index];
  units.resize(static_cast<size_t>(selection.loaded.units));
  for (int64_t unit = 0; unit < selection.loaded.units; ++unit)
    take_exposure(cell, span, selection, row, unit, units[static_cast<size_t>(unit)]);
  if (selection.mass.empty()) return;
  metrics_.oracle_page_recall.resize(metrics_.effective_exposure.size());
  metrics_.mass_recall_first.resize(metrics_.effective_exposure.size());
  take_recall(cell, selection, row);
}

void SelectionMeasure::take_exposure(size_t cell, const WindowSpan& span, const PageSelection& selection,
                                     int64_t row, int64_t unit, Shown& shown) {
  const int64_t p = selection.page_size;
  std::vector<int64_t> added(static_cast<size_t>(span.rows), 0);
  for (const int32_t page : selection.loaded.of(row, unit)) {
    if (static_cast<size_t>(page) >= shown.last_loaded.size())
      shown.last_loaded.resize(static_cast<size_t>(page) + 1, -1);
    int32_t& last = shown.last_loaded[static_cast<size_t>(page)];
    for (int64_t past = 0; past < span.rows; ++past) {
      const int64_t query = span.position - past;
      // Neither it nor an older one is shown anything: it has seen the page, or the page began after it.
      if ((past > 0 && last >= query) || page * p > query) break;
      added[static_cast<size_t>(past)] += std::min(p, query + 1 - page * p);
    }
    last = static_cast<int32_t>(span.position);
  }
  shown.own_tokens.resize(static_cast<size_t>(window_));
  shown.own_tokens[static_cast<size_t>(span.position % window_)] = added.front();
  for (int64_t past = 0; past < span.rows; ++past) {
    const auto own =
        static_cast<double>(shown.own_tokens[static_cast<size_t>((span.position - past) % window_)]);
    metrics_.effective_exposure[cell - static_cast<size_t>(past * n_layers_)] +=
        static_cast<double>(added[static_cast<size_t>(past)]) / own /
        static_cast<double>(selection.loaded.units);
  }
}

void SelectionMeasure::take_recall(size_t cell, const PageSelection& selection, int64_t row) {
  const auto units = static_cast<double>(selection.loaded.units);
  for (int64_t unit = 0; unit < selection.loaded.units; ++unit) {
    const auto loaded = selection.loaded.of(row, unit), best = selection.best.of(row, unit);
    int64_t found = 0;
    for (const int32_t page : best) found += std::binary_search(loaded.begin(), loaded.end(), page) ? 1 : 0;
    double mass = 0;
    for (const int32_t page : loaded) mass += selection.mass_of(row, unit, page);
    metrics_.oracle_page_recall[cell] +=
        static_cast<double>(found) / static_cast<double>(best.size()) / units;
    // Sums of rounded shares may exceed the whole.
    metrics_.mass_recall_first[cell] +=
        std::min(1.0, mass / static_cast<double>(selection.heads_per_unit)) / units;
  }
}

SelectionMeasures::SelectionMeasures(Decoder& decoder, const DecodingMethod& method,
                                     std::span<const EvalSequence* const> sequences, bool with_true_mass) {
  const int64_t window = retro_options(method.parameters).window;
  for (const EvalSequence* sequence : sequences)
    measures_.emplace_back(sequence->prompt_tokens, decoder.first_sparse_layer(), decoder.n_layers(), window);
  decoder.observe_selections(
      [this](int64_t layer, std::span<const WindowSpan> spans, SelectionDownload selection) {
        last_step_.push_back({layer, {spans.begin(), spans.end()}, std::move(selection)});
      },
      with_true_mass);
}

void SelectionMeasures::take(const OfStep& step) {
  if (step.empty()) return;
  std::vector<PageSelection> selections;
  for (const OfLayer& of : step) selections.push_back(of.selection.get());
  // All layers have the same sequences.
  const auto n = static_cast<int64_t>(step.front().spans.size());
  for_each_piece(n, n >= spans_worth_threads, [&](int64_t i) {
    for (size_t l = 0; l < step.size(); ++l) {
      const WindowSpan& span = step[l].spans[static_cast<size_t>(i)];
      measures_[static_cast<size_t>(span.sequence)].take(step[l].layer, span, selections[l], i);
    }
  });
}

}  // namespace hindsight
