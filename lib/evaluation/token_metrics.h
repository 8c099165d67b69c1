#pragma once
// What logits say of the token that comes next, and of each other (definitions: README, "Metrics").

#include <cstdint>
#include <span>

namespace hindsight {

/// -log softmax(logits)[token], in nats.
double negative_log_likelihood(std::span<const float> logits, int32_t token);
/// KL(softmax(reference) || softmax(logits)), in nats; not below 0.
double logit_divergence(std::span<const float> reference, std::span<const float> logits);
/// Whether both find the same token most likely (of equals the lowest).
bool same_token(std::span<const float> reference, std::span<const float> logits);

}  // namespace hindsight
