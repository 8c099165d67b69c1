#pragma once
// Statistics of measured values. NaN means undefined, and is left out.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hindsight {

/// Mean of the values that are not NaN; NaN if there is none.
double mean(const std::vector<double>& values);
/// The same, each value as often as its weight says; there are as many of both.
double weighted_mean(const std::vector<double>& values, const std::vector<double>& weights);
/// The smallest value that at least `share` of the values that are not NaN do not exceed; NaN if there is
/// none.
double percentile(std::vector<double> values, double share);

/// Percentiles of many values, counted by their leading bits as they come: in the end only those that share
/// the leading bits of a percentile are looked at more closely.
class PercentileCounts {
 public:
  static constexpr int leading_bits = 16;  ///< sign, exponent and a little more
  static constexpr int64_t bytes = (int64_t{1} << leading_bits) * 8;

  void add(double value);
  /// As percentile(). `values`: all that were added, in any order.
  double find(const std::vector<double>& values, double share) const;

 private:
  static size_t bin_of(double value);
  std::vector<int64_t> in_bin_ = std::vector<int64_t>(size_t{1} << leading_bits);
  int64_t count_ = 0;
};

}  // namespace hindsight
