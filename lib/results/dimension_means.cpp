#include "results/dimension_means.h"

#include <algorithm>
#include <optional>

#include "core/statistics.h"

namespace hindsight {
namespace {

constexpr int64_t max_step_ranges = 16;

const std::vector<int64_t>* integer_coordinate(const PointResult& point, const std::string& name) {
  for (const Coordinate& coordinate : point.coordinates)
    if (coordinate.name == name) return std::get_if<std::vector<int64_t>>(&coordinate.values);
  return nullptr;
}

/// The places along the dimension, and where the values of a series belong.
class Places {
 public:
  Places(const PointResult& point, Along along) : point_(point), along_(along) {
    static constexpr const char* names[] = {"layer", "q_head", "step"};
    values_ = integer_coordinate(point, names[static_cast<int>(along)]);
    if (!values_ || values_->empty()) return;
    const auto n = static_cast<int64_t>(values_->size());
    if (along == Along::step) width_ = (n + max_step_ranges - 1) / max_step_ranges;
    count_ = static_cast<size_t>((n + width_ - 1) / width_);
  }

  size_t count() const { return count_; }

  std::vector<int64_t> label(size_t place) const {
    if (along_ != Along::step) return {(*values_)[place]};
    const size_t first = place * static_cast<size_t>(width_);
    return {(*values_)[first],
            (*values_)[std::min(first + static_cast<size_t>(width_), values_->size()) - 1]};
  }

  /// For each index along a series' dimension the places it belongs to; none where the dimension is another.
  std::optional<std::vector<std::vector<size_t>>> places_of(const std::string& dimension,
                                                            int64_t extent) const {
    std::vector<std::vector<size_t>> places(static_cast<size_t>(extent));
    const auto n = static_cast<int64_t>(count_);
    if ((along_ == Along::layer && dimension == "layer") ||
        (along_ == Along::head && dimension == "q_head")) {
      for (int64_t i = 0; i < std::min(extent, n); ++i) places[i] = {static_cast<size_t>(i)};
    } else if (along_ == Along::head && dimension == "unit" && extent > 0) {
      for (int64_t head = 0; head < n; ++head) places[head * extent / n].push_back(static_cast<size_t>(head));
    } else if (along_ == Along::step && (dimension == "step" || dimension == "latency_step")) {
      const auto* steps = integer_coordinate(point_, dimension);
      for (size_t i = 0; steps && i < std::min(places.size(), steps->size()); ++i) {
        if ((*steps)[i] < values_->front() || (*steps)[i] > values_->back()) continue;
        places[i] = {static_cast<size_t>(((*steps)[i] - values_->front()) / width_)};
      }
    } else {
      return std::nullopt;
    }
    return places;
  }

 private:
  const PointResult& point_;
  Along along_;
  const std::vector<int64_t>* values_ = nullptr;
  int64_t width_ = 1;
  size_t count_ = 0;
};

/// How much each value of a series counts: as many steps as it is the mean of.
class StepWeights {
 public:
  explicit StepWeights(const PointResult& point) {
    for (const Series& series : point.series)
      if (series.name == averaged_steps) by_sequence_ = &series;
  }

  std::vector<double> of(const Series& series) const {
    std::vector<double> weights(series.values.size(), 1.0);
    const auto step = axis_of(series, "step");
    if (!by_sequence_ || !step) return weights;
    const auto sequence = axis_of(series, "sequence");
    const auto steps = static_cast<size_t>(by_sequence_->shape[1]),
               sequences = static_cast<size_t>(by_sequence_->shape[0]);
    for (size_t i = 0; i < weights.size(); ++i) {
      const size_t at = index_along(series, *step, i);
      weights[i] = 0;
      // Of all sequences together: a step is there as long as the longest has it.
      for (size_t s = sequence ? index_along(series, *sequence, i) : 0; s < sequences; ++s) {
        weights[i] = std::max(weights[i], by_sequence_->values[s * steps + at]);
        if (sequence) break;
      }
    }
    return weights;
  }

 private:
  static std::optional<size_t> axis_of(const Series& series, const char* dimension) {
    const auto found = std::find(series.dimensions.begin(), series.dimensions.end(), dimension);
    if (found == series.dimensions.end()) return std::nullopt;
    return static_cast<size_t>(found - series.dimensions.begin());
  }
  static size_t index_along(const Series& series, size_t axis, size_t flat) {
    for (size_t a = series.shape.size() - 1; a > axis; --a) flat /= static_cast<size_t>(series.shape[a]);
    return flat % static_cast<size_t>(series.shape[axis]);
  }

  const Series* by_sequence_ = nullptr;
};

/// The values of a series at a place, and how much each counts.
struct PlaceValues {
  std::vector<double> values, weights;
};

std::vector<PlaceValues> values_at(const Series& series, const std::vector<double>& weights, size_t axis,
                                   const std::vector<std::vector<size_t>>& places, size_t count) {
  size_t inner = 1;
  for (size_t a = axis + 1; a < series.shape.size(); ++a) inner *= static_cast<size_t>(series.shape[a]);
  std::vector<PlaceValues> at(count);
  for (size_t i = 0; i < series.values.size(); ++i)
    for (const size_t place : places[i / inner % places.size()]) {
      at[place].values.push_back(series.values[i]);
      at[place].weights.push_back(weights[i]);
    }
  return at;
}

}  // namespace

std::vector<std::string> label_columns(Along along) {
  if (along == Along::layer) return {"layer"};
  if (along == Along::head) return {"q_head"};
  return {"step_from", "step_to"};
}

std::vector<DimensionMean> dimension_means(const PointResult& point, Along along) {
  const Places places(point, along);
  const StepWeights weights(point);
  std::vector<DimensionMean> rows;
  for (size_t place = 0; place < places.count(); ++place) rows.push_back({places.label(place), {}});
  bool any = false;
  for (const Series& series : point.series) {
    if (series.integral) continue;
    for (size_t axis = 0; axis < series.dimensions.size(); ++axis) {
      const auto belonging = places.places_of(series.dimensions[axis], series.shape[axis]);
      if (!belonging) continue;
      const auto at = values_at(series, weights.of(series), axis, *belonging, places.count());
      // A mean of latencies would say more of the machine's other work than of the method.
      const bool is_latency = series.name.starts_with("latency_");
      const std::string name = series.name + (is_latency ? "_p50" : "_mean");
      for (size_t place = 0; place < at.size(); ++place)
        rows[place].means.emplace_back(name, is_latency ? percentile(at[place].values, 0.5)
                                                        : weighted_mean(at[place].values, at[place].weights));
      any = true;
      break;
    }
  }
  if (!any) rows.clear();
  return rows;
}

}  // namespace hindsight
