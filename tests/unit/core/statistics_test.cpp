// Statistics leave undefined values out, and a percentile is one of the values.

#include "core/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace hindsight::test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST(Statistics, UndefinedValuesAreLeftOut) {
  EXPECT_EQ(mean({1, nan, 4}), 2.5);
  EXPECT_EQ(percentile({nan, 3, nan, 1, 2}, 0.5), 2);
}

TEST(Statistics, OfNothingAreUndefined) {
  for (const std::vector<double>& nothing : {std::vector<double>{}, std::vector<double>{nan}}) {
    EXPECT_TRUE(std::isnan(mean(nothing)));
    EXPECT_TRUE(std::isnan(percentile(nothing, 0.5)));
  }
}

TEST(Statistics, APercentileIsTheSmallestValueThatTheShareDoesNotExceed) {
  EXPECT_EQ(percentile({4, 3, 2, 1}, 0.5), 2);
  EXPECT_EQ(percentile({5, 4, 3, 2, 1}, 0.5), 3);
  EXPECT_EQ(percentile({5, 4, 3, 2, 1}, 0.95), 5);
  EXPECT_EQ(percentile({7}, 0), 7);
}

}  // namespace
}  // namespace hindsight::test
