// Statistics leave undefined values out, and a percentile is one of the values.

#include "core/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

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

TEST(Statistics, PercentilesOfCountedValuesAreThoseOfSortedOnes) {
  std::mt19937 random(20250811);
  std::normal_distribution<double> normal;
  std::vector<double> values{nan, 0, -std::numeric_limits<double>::infinity(), 1, 1, 1, nan, 1e300, -1e-300};
  for (int i = 0; i < 1000; ++i) values.push_back(normal(random));
  PercentileCounts counts;
  for (const double value : values) counts.add(value);
  for (const double share : {0.0, 0.001, 0.05, 0.5, 0.95, 1.0})
    EXPECT_EQ(counts.find(values, share), percentile(values, share)) << share;
  EXPECT_TRUE(std::isnan(PercentileCounts{}.find({nan, nan}, 0.5)));
}

}  // namespace
}  // namespace hindsight::test
