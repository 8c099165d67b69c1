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

/// The values of a series at each place.
std::vector<std::vector<double>> values_at(const Series& series, size_t axis,
                                           const std::vector<std::vector<size_t>>& places, size_t count) {
  size_t inner = 1;
  for (size_t a = axis + 1; a < series.shape.size(); ++a) inner *= static_cast<size_t>(series.shape[a]);
  std::vector<std::vector<double>> values(count);
  for (size_t i = 0; i < series.values.size(); ++i)
    for (const size_t place : places[i / inner % places.size()]) values[place].push_back(series.values[i]);
  return values;
}

}  // namespace

std::vector<std::string> label_columns(Along along) {
  if (along == Along::layer) return {"layer"};
  if (along == Along::head) return {"q_head"};
  return {"step_from", "step_to"};
}

std::vector<DimensionMean> dimension_means(const PointResult& point, Along along) {
  const Places places(point, along);
  std::vector<DimensionMean> rows;
  for (size_t place = 0; place < places.count(); ++place) rows.push_back({places.label(place), {}});
  bool any = false;
  for (const Series& series : point.series) {
    if (series.integral) continue;
    for (size_t axis = 0; axis < series.dimensions.size(); ++axis) {
      const auto belonging = places.places_of(series.dimensions[axis], series.shape[axis]);
      if (!belonging) continue;
      const auto values = values_at(series, axis, *belonging, places.count());
      // A mean of latencies would say more of the machine's other work than of the method.
      const bool is_latency = series.name.starts_with("latency_");
      const std::string name = series.name + (is_latency ? "_p50" : "_mean");
      for (size_t place = 0; place < values.size(); ++place)
        rows[place].means.emplace_back(name,
                                       is_latency ? percentile(values[place], 0.5) : mean(values[place]));
      any = true;
      break;
    }
  }
  if (!any) rows.clear();
  return rows;
}

}  // namespace hindsight
