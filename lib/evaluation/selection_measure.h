#pragma once
// What a decoding sequence was shown of its past, and how much of what attention wants that is (definitions:
// README, "Metrics").

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "evaluation/eval_data.h"
#include "model/decoder.h"

namespace hindsight {

/// Of one sequence: [steps, sparse layers], means over the selection units.
struct SelectionMetrics {
  /// Tokens shown to the query in the end / tokens loaded at its own step; NaN where none was.
  std::vector<double> effective_exposure;
  // Empty unless true mass was measured.
  std::vector<double> oracle_page_recall;  ///< share of the k pages of the largest true mass that were loaded
  std::vector<double> mass_recall_first;   ///< true mass of what was loaded at the query's own step
};

/// The measurement as the sequence goes on.
class SelectionMeasure {
 public:
  /// Layers [first_layer, n_layers) are sparse; step i is that of position first_position + i.
  SelectionMeasure(int64_t first_position, int64_t first_layer, int64_t n_layers, int64_t window);

  /// Row `row` of a selection, that of `span`. Steps of a layer come in order.
  void take(int64_t layer, const WindowSpan& span, const PageSelection& selection, int64_t row);
  SelectionMetrics finish() { return std::move(metrics_); }

 private:
  /// What finds the pages that a query has not been shown, without sets (RetroAttention, section 3).
  struct Shown {
    std::vector<int32_t> last_loaded;  ///< by page: the last position that loaded it, or -1
    std::vector<int64_t>
        own_tokens;  ///< loaded at the steps of the last positions, by position modulo window
  };

  void take_exposure(size_t cell, const WindowSpan& span, const PageSelection& selection, int64_t row,
                     int64_t unit, Shown& shown);
  void take_recall(size_t cell, const PageSelection& selection, int64_t row);

  int64_t first_position_, first_layer_, n_layers_, window_;
  std::vector<std::vector<Shown>> shown_;  // by layer and unit
  SelectionMetrics metrics_;
};

/// Of sequences that are decoded together. Has the decoder tell what it loads, and outlives its steps.
class SelectionMeasures {
 public:
  SelectionMeasures(Decoder& decoder, const DecodingMethod& method,
                    std::span<const EvalSequence* const> sequences, bool with_true_mass);
  SelectionMeasures(const SelectionMeasures&) = delete;
  SelectionMeasures& operator=(const SelectionMeasures&) = delete;

  /// What the sparse layers of a step loaded, on its way to the host.
  struct OfLayer {
    int64_t layer = 0;
    std::vector<WindowSpan> spans;
    SelectionDownload selection;
  };
  using OfStep = std::vector<OfLayer>;
  /// Of the step that was handed over last.
  OfStep last_step() { return std::exchange(last_step_, {}); }
  /// Waits. Steps come in order.
  void take(const OfStep& step);
  SelectionMetrics finish(size_t sequence) { return measures_[sequence].finish(); }

 private:
  std::vector<SelectionMeasure> measures_;
  OfStep last_step_;
};

}  // namespace hindsight
