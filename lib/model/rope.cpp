#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace hindsight {
namespace {

/// Llama 3.1's stretch of the context: frequencies whose wavelength fits the original context many times
/// stay, those that do not fit are divided by the factor, and between the two a linear passage.
double stretched(double frequency, const RopeConfig& config) {
  const double turns = config.original_context * frequency / (2 * std::numbers::pi);
  if (turns > config.high_frequency) return frequency;
  if (turns < config.low_frequency) return frequency / config.factor;
  const double share = (turns - config.low_frequency) / (config.high_frequency - config.low_frequency);
  return (1 - share) * frequency / config.factor + share * frequency;
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const RopeConfig& config, int64_t head_dim) {
  for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
    double frequency =
        std::pow(config.theta, -2.0 * static_cast<double>(pair) / static_cast<double>(head_dim));
    if (config.scaling == RopeConfig::Scaling::linear) frequency /= config.factor;
    if (config.scaling == RopeConfig::Scaling::llama3) frequency = stretched(frequency, config);
    frequencies_.push_back(static_cast<float>(frequency));
  }
}

void RotaryEmbedding::rotate(float* rows, std::span<const int32_t> positions, int64_t heads) const {
  const auto n = static_cast<int64_t>(positions.size()), half = static_cast<int64_t>(frequencies_.size());
#pragma omp parallel for schedule(static) if (n * heads * half > 1 << 18)
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t pair = 0; pair < half; ++pair) {
      // The angle is rounded to float32, as where the models were trained: at position 2000 another rounding
      // moves logits by 1e-5.
      const float angle = static_cast<float>(positions[row]) * frequencies_[pair];
      const auto cosine = static_cast<float>(std::cos(static_cast<double>(angle)));
      const auto sine = static_cast<float>(std::sin(static_cast<double>(angle)));
      for (int64_t head = 0; head < heads; ++head) {
        float* at = rows + (row * heads + head) * 2 * half + pair;
        const float a = at[0], b = at[half];
        at[0] = a * cosine - b * sine;
        at[half] = b * cosine + a * sine;
      }
    }
  }
}

}  // namespace hindsight
