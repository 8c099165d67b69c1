#pragma once
// Statistics of measured values. NaN means undefined, and is left out.

#include <span>
#include <vector>

namespace hindsight {

/// Mean of the values that are not NaN; NaN if there is none.
double mean(const std::vector<double>& values);
/// The same, each value as often as its weight says; there are as many of both.
double weighted_mean(const std::vector<double>& values, const std::vector<double>& weights);
/// The smallest value that at least `share` of the values that are not NaN do not exceed; NaN if there is
/// none.
double percentile(std::vector<double> values, double share);
/// The same of several shares, ascending.
std::vector<double> percentiles(std::vector<double> values, std::span<const double> shares);

}  // namespace hindsight
