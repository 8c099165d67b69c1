#include "evaluation/token_metrics.h"

#include <algorithm>
#include <cmath>

namespace hindsight {
namespace {

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

}  // namespace

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  return log_sum_exp(logits) - logits[static_cast<size_t>(token)];
}

double logit_divergence(std::span<const float> reference, std::span<const float> logits) {
  const double p_norm = log_sum_exp(reference), q_norm = log_sum_exp(logits);
  double divergence = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double p = reference[i] - p_norm, q = logits[i] - q_norm;
    divergence += std::exp(p) * (p - q);
  }
  return std::max(0.0, divergence);  // rounding may leave less
}

bool same_token(std::span<const float> reference, std::span<const float> logits) {
  return std::max_element(reference.begin(), reference.end()) - reference.begin() ==
         std::max_element(logits.begin(), logits.end()) - logits.begin();
}

}  // namespace hindsight
