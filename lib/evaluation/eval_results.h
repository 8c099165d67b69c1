#pragma once
// From what sequences gave to series and columns of a result.

#include <cstdint>
#include <string>
#include <vector>

#include "evaluation/generation.h"
#include "evaluation/teacher_forcing.h"
#include "results/result.h"

namespace hindsight {

/// Coordinates, series and summary of one point; the rest is the caller's.
struct EvalMeasurements {
  std::vector<Coordinate> coordinates;
  std::vector<Series> series;
  MetricValues summary;
};

/// Series nll, delta_nll, logit_kl, token_agreement and, of hidden errors, the mean over layers [sequence,
/// step] (NaN after a sequence's end); with hidden_rel_l2_first, hidden_rel_l2_final [step, layer], means
/// over the sequences that have the step. Both kinds of results: effective_exposure and, where true mass was
/// measured, oracle_page_recall and mass_recall_first, the same.
EvalMeasurements results_of(const std::vector<TeacherForced>& sequences, int64_t first_layer,
                            int64_t n_layers, int64_t average_steps);

/// Series accuracy, before_first_error, exact, first_error [sequence], and the token ids written and expected
/// [sequence, token], -1 after their end.
EvalMeasurements results_of(const std::vector<Generated>& generated,
                            const std::vector<EvalSequence>& sequences, int64_t first_layer,
                            int64_t n_layers);

}  // namespace hindsight
