#include "metrics/metric.h"

#include <limits>

namespace hindsight {

void append(Measurements& to, Measurements from) {
  for (auto& coordinate : from.coordinates) to.coordinates.push_back(std::move(coordinate));
  for (auto& series : from.series) to.series.push_back(std::move(series));
  for (auto& column : from.summary) to.summary.push_back(std::move(column));
}

#define HINDSIGHT_METRIC(name) std::unique_ptr<Metric> make_##name(const ReplayShape& shape);
#include "metrics/metrics.def"
#undef HINDSIGHT_METRIC

std::vector<std::unique_ptr<Metric>> make_metrics(const ReplayShape& shape) {
  std::vector<std::unique_ptr<Metric>> metrics;
#define HINDSIGHT_METRIC(name) metrics.push_back(make_##name(shape));
#include "metrics/metrics.def"
#undef HINDSIGHT_METRIC
  return metrics;
}

StepLayerSeries::StepLayerSeries(const ReplayShape& shape, std::string name, std::string last_dimension,
                                 int64_t last_extent, std::string unit, std::string description)
    : last_extent_(last_extent) {
  const auto layers = static_cast<int64_t>(shape.layers.size());
  series_.name = std::move(name);
  series_.dimensions = {"step", "layer"};
  series_.shape = {shape.n_steps, layers};
  if (!last_dimension.empty()) {
    series_.dimensions.push_back(std::move(last_dimension));
    series_.shape.push_back(last_extent);
  }
  series_.values.assign(static_cast<size_t>(shape.n_steps * layers * last_extent),
                        std::numeric_limits<double>::quiet_NaN());
  series_.unit = std::move(unit);
  series_.description = std::move(description);
}

std::future<double> StepLayerSeries::begin_mean() const {
  return std::async(std::launch::async, [this] { return mean(series_.values); });
}

}  // namespace hindsight
