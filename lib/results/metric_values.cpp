#include "results/metric_values.h"

#include <cmath>
#include <set>

namespace hindsight {

std::optional<double> defined_value(const MetricValues& metrics, const std::string& name) {
  for (const auto& [metric, value] : metrics)
    if (metric == name && !std::isnan(value)) return value;
  return std::nullopt;
}

std::vector<std::string> names_of(std::span<const MetricValues> metrics) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const MetricValues& values : metrics)
    for (const auto& [name, value] : values)
      if (seen.insert(name).second) names.push_back(name);
  return names;
}

std::vector<MetricValues> summaries_of(std::span<const PointResult> points) {
  std::vector<MetricValues> summaries;
  for (const PointResult& point : points) summaries.push_back(point.summary);
  return summaries;
}

}  // namespace hindsight
