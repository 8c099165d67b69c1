#include "core/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hindsight {

double mean(const std::vector<double>& values) {
  double sum = 0;
  int64_t count = 0;
  for (const double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN();
}

double weighted_mean(const std::vector<double>& values, const std::vector<double>& weights) {
  double sum = 0, total = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) continue;
    sum += weights[i] * values[i];
    total += weights[i];
  }
  return total > 0 ? sum / total : std::numeric_limits<double>::quiet_NaN();
}

double percentile(std::vector<double> values, double share) {
  return percentiles(std::move(values), {&share, 1}).front();
}

std::vector<double> percentiles(std::vector<double> values, std::span<const double> shares) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  std::vector<double> found;
  auto sorted = values.begin();  // what lies before is no larger than what lies behind
  for (const double share : shares) {
    if (values.empty()) {
      found.push_back(std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    const double rank = std::ceil(share * static_cast<double>(values.size()));
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(
                                         std::clamp(rank - 1, 0.0, static_cast<double>(values.size() - 1)));
    std::nth_element(sorted, at, values.end());
    found.push_back(*at);
    sorted = at;
  }
  return found;
}

}  // namespace hindsight
