#include "model/sampling.h"

#include <algorithm>
#include <cmath>

#include "core/counter_random.h"

namespace hindsight {

int32_t next_token(std::span<const float> logits, const Sampling& sampling, int64_t sequence,
                   int64_t position) {
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (sampling.temperature == 0) return static_cast<int32_t>(likeliest - logits.begin());
  const auto weight = [&](float logit) {
    return std::exp((static_cast<double>(logit) - *likeliest) / sampling.temperature);
  };
  double total = 0;
  for (const float logit : logits) total += weight(logit);
  double left = total * counter_uniform(sampling.seed, sequence, position, 0, 0);
  int32_t last = 0;  // that has a weight: rounding may leave something over
  for (size_t token = 0; token < logits.size(); ++token) {
    const double own = weight(logits[token]);
    if (own > 0) last = static_cast<int32_t>(token);
    left -= own;
    if (left < 0) return static_cast<int32_t>(token);
  }
  return last;
}

}  // namespace hindsight
