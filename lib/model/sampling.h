#pragma once
// Which token comes next.

#include <cstdint>
#include <span>

namespace hindsight {

struct Sampling {
  double temperature = 0;  ///< 0: the most likely token
  uint64_t seed = 0;
};

/// The token of these logits [vocabulary]; of equally likely ones the lowest. With a temperature, a draw from
/// softmax(logits / temperature) that depends on seed, sequence and position alone.
int32_t next_token(std::span<const float> logits, const Sampling& sampling, int64_t sequence,
                   int64_t position);

}  // namespace hindsight
