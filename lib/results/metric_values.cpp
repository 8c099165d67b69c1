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

}  // namespace hindsight
