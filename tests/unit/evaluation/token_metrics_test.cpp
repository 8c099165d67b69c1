#include "evaluation/token_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace hindsight::test {
namespace {

TEST(TokenMetrics, LikelihoodOfATokenByItsFormula) {
  const std::vector<float> logits{0, std::log(2.0f), std::log(5.0f)};  // shares 1, 2, 5 of 8
  EXPECT_NEAR(negative_log_likelihood(logits, 0), std::log(8.0), 1e-6);
  EXPECT_NEAR(negative_log_likelihood(logits, 2), std::log(8.0 / 5), 1e-6);
}

TEST(TokenMetrics, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits{1000, 0, -1000};
  EXPECT_NEAR(negative_log_likelihood(logits, 0), 0, 1e-12);
  EXPECT_NEAR(negative_log_likelihood(logits, 2), 2000, 1e-9);
  const std::vector<float> other{0, 1000, -1000};
  EXPECT_NEAR(logit_divergence(logits, other), 1000, 1e-9);
}

TEST(TokenMetrics, DivergenceByItsFormula) {
  const std::vector<float> p{std::log(1.0f), std::log(3.0f)}, q{std::log(2.0f), std::log(2.0f)};
  EXPECT_NEAR(logit_divergence(p, q), 0.25 * std::log(0.25 / 0.5) + 0.75 * std::log(0.75 / 0.5), 1e-6);
  EXPECT_EQ(logit_divergence(p, p), 0);
  const std::vector<float> shifted{p[0] + 7, p[1] + 7};  // the same distribution
  EXPECT_NEAR(logit_divergence(p, shifted), 0, 1e-6);
}

TEST(TokenMetrics, AgreementIsOfTheLikeliest) {
  EXPECT_TRUE(same_token(std::vector<float>{0, 3, 1}, std::vector<float>{-5, 0, -1}));
  EXPECT_FALSE(same_token(std::vector<float>{0, 3, 1}, std::vector<float>{0, 1, 3}));
  EXPECT_TRUE(same_token(std::vector<float>{2, 2}, std::vector<float>{2, 1}));  // of equals the lowest
}

}  // namespace
}  // namespace hindsight::test
