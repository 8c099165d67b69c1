#include "evaluation/eval_results.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/statistics.h"

namespace hindsight {
namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

Coordinate counted(std::string name, int64_t n, int64_t from = 0) {
  std::vector<int64_t> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), from);
  return {std::move(name), std::move(values)};
}

/// Standard error of the mean over sequences, each of which counts as one; NaN for fewer than two.
double standard_error(const std::vector<double>& per_sequence) {
  std::vector<double> defined;
  for (const double value : per_sequence)
    if (!std::isnan(value)) defined.push_back(value);
  const auto n = static_cast<double>(defined.size());
  if (defined.size() < 2) return undefined;
  const double average = mean(defined);
  double squares = 0;
  for (const double value : defined) squares += (value - average) * (value - average);
  return std::sqrt(squares / (n - 1) / n);
}

/// Rows of different lengths as one array, `fill` after their ends.
std::vector<double> padded(const std::vector<std::vector<double>>& rows, int64_t width, double fill) {
  std::vector<double> values(rows.size() * static_cast<size_t>(width), fill);
  for (size_t row = 0; row < rows.size(); ++row)
    std::copy(rows[row].begin(), rows[row].end(), values.begin() + static_cast<int64_t>(row) * width);
  return values;
}

Series series_of(std::string name, std::vector<std::string> dimensions, std::vector<int64_t> shape,
                 std::vector<double> values, std::string unit, std::string description,
                 bool integral = false) {
  return {std::move(name), std::move(dimensions), std::move(shape),      std::move(values),
          integral,        std::move(unit),       std::move(description)};
}

/// Steps as they are stored: means of `width` of them, each of `inner` values; undefined ones are left out.
class StepMeans {
 public:
  explicit StepMeans(int64_t width) : width_(width) {}
  bool are_steps() const { return width_ == 1; }
  int64_t count(int64_t steps) const { return (steps + width_ - 1) / width_; }
  /// How many steps each mean is of, of a sequence that has so many.
  std::vector<double> weights(int64_t steps) const {
    std::vector<double> weights;
    for (int64_t first = 0; first < steps; first += width_)
      weights.push_back(static_cast<double>(std::min(width_, steps - first)));
    return weights;
  }
  Coordinate coordinate(int64_t steps) const {
    std::vector<int64_t> first;
    for (int64_t step = 0; step < steps; step += width_) first.push_back(step);
    return {"step", std::move(first)};
  }
  std::vector<double> of(const std::vector<double>& values, int64_t inner) const {
    const auto steps = static_cast<int64_t>(values.size()) / inner;
    std::vector<double> means;
    for (int64_t first = 0; first < steps; first += width_)
      for (int64_t i = 0; i < inner; ++i) {
        std::vector<double> together;
        for (int64_t step = first; step < std::min(first + width_, steps); ++step)
          together.push_back(values[static_cast<size_t>(step * inner + i)]);
        means.push_back(mean(together));
      }
    return means;
  }

 private:
  int64_t width_;
};

/// Values of one sequence.
using Row = const std::vector<double>*;

/// Mean over the rows that reach each cell.
std::vector<double> mean_over_sequences(const std::vector<Row>& rows, int64_t cells) {
  std::vector<double> sum(static_cast<size_t>(cells), 0.0), count(sum.size(), 0.0);
  for (const Row row : rows)
    for (size_t i = 0; i < row->size(); ++i)
      if (!std::isnan((*row)[i])) {
        sum[i] += (*row)[i];
        count[i] += 1;
      }
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = count[i] > 0 ? sum[i] / count[i] : undefined;
  return sum;
}

/// A series [step, layer] of means over the sequences, and its mean.
void add_by_layer(EvalMeasurements& results, const char* name, const std::vector<Row>& rows, int64_t steps,
                  int64_t layers, const StepMeans& stored, const std::string& description) {
  const std::vector<double> cells = mean_over_sequences(rows, steps * layers);
  results.summary.emplace_back(std::string(name) + "_mean", mean(cells));
  results.series.push_back(series_of(name, {"step", "layer"}, {stored.count(steps), layers},
                                     stored.of(cells, layers), "1", description + "; mean over sequences"));
}

/// `selections`: those of all sequences; nothing where everything was loaded.
void add_selections(EvalMeasurements& results, const std::vector<const SelectionMetrics*>& selections,
                    int64_t steps, int64_t layers, const StepMeans& stored) {
  const auto add = [&](const char* name, std::vector<double> SelectionMetrics::*values,
                       const char* description) {
    std::vector<Row> rows;
    bool is_measured = false;
    for (const SelectionMetrics* selection : selections) {
      rows.push_back(&(selection->*values));
      is_measured = is_measured || !rows.back()->empty();
    }
    if (is_measured) add_by_layer(results, name, rows, steps, layers, stored, description);
  };
  add("effective_exposure", &SelectionMetrics::effective_exposure,
      "tokens shown to the query in the end / tokens loaded at its own step, mean over selection units");
  add("oracle_page_recall", &SelectionMetrics::oracle_page_recall,
      "share of the k pages of the largest true mass that were loaded, mean over selection units");
  add("mass_recall_first", &SelectionMetrics::mass_recall_first,
      "true softmax mass of what was loaded at the query's own step, mean over heads");
}

}  // namespace

EvalMeasurements results_of(const std::vector<TeacherForced>& sequences, int64_t first_layer,
                            int64_t n_layers, int64_t average_steps) {
  const auto n = static_cast<int64_t>(sequences.size());
  const StepMeans stored(average_steps);
  int64_t steps = 0;
  for (const TeacherForced& sequence : sequences)
    steps = std::max(steps, static_cast<int64_t>(sequence.nll.size()));
  EvalMeasurements results;
  results.coordinates = {counted("sequence", n), stored.coordinate(steps),
                         counted("layer", n_layers - first_layer, first_layer)};

  struct PerStep {
    const char *name, *unit, *description;
    std::vector<double> TeacherForced::*values;
    bool with_error;
  };
  const PerStep per_step[] = {
      {"nll", "nat", "-log p of the token that comes next", &TeacherForced::nll, false},
      {"delta_nll", "nat", "nll less that of dense attention", &TeacherForced::delta_nll, true},
      {"logit_kl", "nat", "KL divergence of the next token's distribution from that of dense attention",
       &TeacherForced::logit_kl, false},
      {"token_agreement", "1", "1 where the most likely token is that of dense attention",
       &TeacherForced::token_agreement, true}};
  const auto add_by_sequence = [&](const std::string& name, const std::vector<std::vector<double>>& rows,
                                   const char* unit, const std::string& description) {
    results.series.push_back(series_of(name, {"sequence", "step"}, {n, stored.count(steps)},
                                       padded(rows, stored.count(steps), undefined), unit, description));
  };
  for (const PerStep& metric : per_step) {
    std::vector<std::vector<double>> rows;
    std::vector<double> per_sequence, all;
    for (const TeacherForced& sequence : sequences) {
      const std::vector<double>& values = sequence.*metric.values;
      all.insert(all.end(), values.begin(), values.end());
      per_sequence.push_back(mean(values));
      rows.push_back(stored.of(values, 1));
    }
    results.summary.emplace_back(std::string(metric.name) + "_mean", mean(all));
    if (metric.with_error)
      results.summary.emplace_back(std::string(metric.name) + "_standard_error",
                                   standard_error(per_sequence));
    add_by_sequence(metric.name, rows, metric.unit, metric.description);
  }

  if (!stored.are_steps()) {
    std::vector<std::vector<double>> weights;
    for (const TeacherForced& sequence : sequences)
      weights.push_back(stored.weights(static_cast<int64_t>(sequence.nll.size())));
    results.series.push_back(series_of(averaged_steps, {"sequence", "step"}, {n, stored.count(steps)},
                                       padded(weights, stored.count(steps), 0), "1",
                                       "steps that the values of a step are the mean of", true));
  }

  const int64_t layers = n_layers - first_layer;
  if (layers == 0) return results;
  const auto hidden = [&](const char* name, std::vector<double> TeacherForced::*values, const char* when) {
    const std::string error =
        std::string("||h - h*|| / ||h*|| of the residual stream after the layer, ") + when;
    std::vector<Row> rows;
    std::vector<std::vector<double>> over_layers;
    for (const TeacherForced& sequence : sequences) {
      rows.push_back(&(sequence.*values));
      over_layers.push_back(stored.of(StepMeans(layers).of(sequence.*values, 1), 1));
    }
    add_by_layer(results, name, rows, steps, layers, stored, error);
    add_by_sequence(std::string("sequence_") + name, over_layers, "1", error + "; mean over sparse layers");
  };
  hidden("hidden_rel_l2_first", &TeacherForced::hidden_first, "when the position is first computed");
  hidden("hidden_rel_l2_final", &TeacherForced::hidden_final, "when the position leaves its window");
  std::vector<const SelectionMetrics*> selections;
  for (const TeacherForced& sequence : sequences) selections.push_back(&sequence.selection);
  add_selections(results, selections, steps, layers, stored);
  return results;
}

EvalMeasurements results_of(const std::vector<Generated>& generated,
                            const std::vector<EvalSequence>& sequences, int64_t first_layer,
                            int64_t n_layers) {
  const auto n = static_cast<int64_t>(sequences.size());
  std::vector<AnswerScore> scores;
  std::vector<std::vector<double>> ids, expected;
  size_t longest = 1;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<int32_t>& written = generated[s].tokens;
    scores.push_back(score_answer(written, sequences[s]));
    ids.emplace_back(written.begin(), written.end());
    expected.emplace_back(sequences[s].answer.begin(), sequences[s].answer.end());
    longest = std::max({longest, ids.back().size(), expected.back().size()});
  }
  EvalMeasurements results;
  results.coordinates = {counted("sequence", n), counted("token", static_cast<int64_t>(longest))};
  const auto add = [&](const char* name, double AnswerScore::*value, const char* unit,
                       const char* description) {
    std::vector<double> values;
    for (const AnswerScore& score : scores) values.push_back(score.*value);
    results.summary.emplace_back(std::string(name) + "_mean", mean(values));
    results.summary.emplace_back(std::string(name) + "_standard_error", standard_error(values));
    results.series.push_back(series_of(name, {"sequence"}, {n}, std::move(values), unit, description));
  };
  add("accuracy", &AnswerScore::accuracy, "1", "share of the scored parts of the answer that are right");
  add("before_first_error", &AnswerScore::before_first_error, "1",
      "share of the scored parts of the answer before the first that is wrong");
  add("exact", &AnswerScore::exact, "1", "1 where the whole answer is right");
  add("first_error", &AnswerScore::first_error, "token",
      "place of the first wrong token; the answer's length where there is none");
  const auto width = static_cast<int64_t>(longest);
  results.series.push_back(series_of("written", {"sequence", "token"}, {n, width}, padded(ids, width, -1),
                                     "1", "token ids that the model wrote, -1 after their end", true));
  results.series.push_back(series_of("expected", {"sequence", "token"}, {n, width},
                                     padded(expected, width, -1), "1",
                                     "token ids of the expected answer, -1 after their end", true));
  // A step takes a token: the last that is written is not taken.
  const int64_t layers = n_layers - first_layer;
  int64_t steps = 0;
  std::vector<const SelectionMetrics*> selections;
  for (const Generated& own : generated) {
    selections.push_back(&own.selection);
    if (layers > 0)
      steps = std::max(steps, static_cast<int64_t>(own.selection.effective_exposure.size()) / layers);
  }
  if (steps == 0) return results;
  results.coordinates.push_back(counted("step", steps));
  results.coordinates.push_back(counted("layer", layers, first_layer));
  add_selections(results, selections, steps, layers, StepMeans(1));
  return results;
}

}  // namespace hindsight
