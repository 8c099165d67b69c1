#pragma once
// One measurement against another: the comparison behind every parity test.

#include <gtest/gtest.h>

#include <cmath>

#include "support/replay_case.h"

namespace hindsight::test {

/// Every series of `expected` is in `measured`, with its shape, undefined at the same places and elsewhere
/// within the tolerance. Sets and counts are the same where they are the same to the last page: errors are
/// sums of some dozens of products in float, at most as large as 1.
inline void expect_parity(const Measurements& expected, const Measurements& measured) {
  constexpr double absolute = 3e-5, relative = 1e-6;
  ASSERT_EQ(expected.series.size(), measured.series.size());
  for (const Series& reference : expected.series) {
    const Series& actual = series(measured, reference.name);
    ASSERT_EQ(actual.shape, reference.shape) << reference.name;
    for (size_t i = 0; i < reference.values.size(); ++i) {
      const double a = actual.values[i], b = reference.values[i];
      ASSERT_EQ(std::isnan(a), std::isnan(b)) << reference.name << " at " << i;
      if (std::isnan(b)) continue;
      ASSERT_LE(std::abs(a - b), absolute + relative * std::abs(b)) << reference.name << " at " << i;
    }
  }
}

}  // namespace hindsight::test
