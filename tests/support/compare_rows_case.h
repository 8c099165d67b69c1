#pragma once
// Rows and the relative errors between them, by definition.

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

namespace hindsight::test {

inline std::vector<float> normal_values(int64_t n, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = normal(generator);
  return values;
}

/// ||x - r|| / ||r||; NaN where r is 0.
inline double relative_error(std::span<const float> x, std::span<const float> r) {
  double difference = 0, norm = 0;
  for (size_t c = 0; c < x.size(); ++c) {
    difference += std::pow(static_cast<double>(x[c]) - r[c], 2);
    norm += std::pow(static_cast<double>(r[c]), 2);
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace hindsight::test
