// Weights that are masked, or too small to be normal numbers, are exactly 0: a vectorised exponential ends at
// about 3e-39, whatever lies below, and the tail of a row that it does not reach goes on.

#include <gtest/gtest.h>

#include "backend/cpu/softmax.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

template <class Real>
void expect_no_weight(Real logit) {
  // Rows of every length around a vector's: each place of a row is reached by vectors in some, by the tail in
  // others.
  for (int64_t n = 2; n < 40; ++n) {
    std::vector<Real> row(static_cast<size_t>(n), logit);
    row[static_cast<size_t>(n / 2)] = 3;
    EXPECT_EQ(cpu::softmax_in_place(row.data(), n), Real(3));
    for (int64_t i = 0; i < n; ++i)
      ASSERT_EQ(row[i], i == n / 2 ? 1 : 0) << logit << ", " << i << " of " << n;
  }
}

TEST(SmallWeights, MaskedOrSubnormalOnesAreZero) {
  for (const float logit : {-std::numeric_limits<float>::infinity(), -1000.0f, -92.0f, -85.0f})
    expect_no_weight<float>(logit);
  expect_no_weight<double>(-std::numeric_limits<double>::infinity());
  expect_no_weight<double>(-706);
}

TEST(SmallWeights, NormalOnesAreKept) {
  std::vector<float> row{0, -80, -87, -50, -87, -60, -87, -70, -87};
  const std::vector<float> logits = row;
  cpu::softmax_in_place(row.data(), static_cast<int64_t>(row.size()));
  for (size_t i = 0; i < row.size(); ++i) EXPECT_NEAR(row[i] / std::exp(logits[i]), 1, 1e-5) << i;
}

TEST(SmallWeights, PagesFarBelowTheRestTie) {
  std::vector<float> logits;
  for (const float logit : {-95.0f, -90.0f, -100.0f, 0.0f, -80.0f}) logits.insert(logits.end(), 11, logit);
  const auto backend = make_cpu_backend();
  const RankedMass ranked = rank_by_mass(*backend, logits, 11, 4);
  for (const int64_t page : {0, 1, 2}) EXPECT_EQ(ranked.mass[page], 0) << "page " << page;
  EXPECT_NEAR(ranked.mass[4] / (11 * std::exp(-80.0f) / 11), 1, 1e-4);
  EXPECT_EQ(ranked.best, (std::vector<int32_t>{0, 1, 3, 4}));
  // Doubles tell them apart.
  EXPECT_EQ(rank_by_mass(*make_cpu_oracle(), logits, 11, 3).best, (std::vector<int32_t>{1, 3, 4}));
}

}  // namespace
}  // namespace hindsight::test
