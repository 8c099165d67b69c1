#include "core/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hindsight {
namespace {

/// Where a percentile stands among `count` ascending values.
int64_t rank_of(double share, int64_t count) {
  const double rank = std::ceil(share * static_cast<double>(count));
  return static_cast<int64_t>(
      std::clamp(rank - 1, 0.0, static_cast<double>(std::max<int64_t>(count, 1) - 1)));
}

/// The value of a rank, 0 for the smallest; NaN where there is none. Moves values about.
double smallest(std::vector<double>& values, int64_t rank) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto at = values.begin() + rank;
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

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
  std::erase_if(values, [](double value) { return std::isnan(value); });
  return smallest(values, rank_of(share, static_cast<int64_t>(values.size())));
}

size_t PercentileCounts::bin_of(double value) {
  constexpr uint64_t sign = uint64_t{1} << 63;
  const auto bits = std::bit_cast<uint64_t>(value);
  const uint64_t ordered = (bits & sign) != 0 ? ~bits : bits | sign;  // as the values are
  return static_cast<size_t>(ordered >> (64 - leading_bits));
}

void PercentileCounts::add(double value) {
  if (std::isnan(value)) return;
  ++in_bin_[bin_of(value)];
  ++count_;
}

double PercentileCounts::find(const std::vector<double>& values, double share) const {
  int64_t rank = rank_of(share, count_);
  size_t bin = 0;
  while (bin + 1 < in_bin_.size() && rank >= in_bin_[bin]) rank -= in_bin_[bin++];
  std::vector<double> held;
  held.reserve(static_cast<size_t>(in_bin_[bin]));
  for (const double value : values)
    if (bin_of(value) == bin && !std::isnan(value)) held.push_back(value);
  return smallest(held, rank);
}

}  // namespace hindsight
