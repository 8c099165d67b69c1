#pragma once
// The small algebra of partial softmax that every kernel shares. The empty state (nothing attended) has max
// -inf and sum 0; it is the identity of merging, and no operation turns it into NaN.

#include <cfloat>
#include <cmath>

namespace hindsight::kernels {

__device__ inline float minus_infinity() { return -INFINITY; }

/// exp(x), exactly 0 where that is below the smallest normal number. Subnormal results differ between
/// implementations of exp; where masses are ranked, they must not.
__device__ inline float normal_exp(float x) {
  const float result = expf(x);
  return result < FLT_MIN ? 0.0f : result;
}

/// Running maximum of logits and the sum of exp(logit - max).
struct SoftmaxState {
  float max = -INFINITY;
  float sum = 0;

  /// Takes a tile in: its maximum becomes part of the state's; returns by what earlier sums and outputs are
  /// to be scaled.
  __device__ float raise(float tile_max) {
    const float raised = fmaxf(max, tile_max);
    // Equal also where both are -inf, whose difference would be NaN.
    const float scale = raised == max ? 1.0f : expf(max - raised);
    max = raised;
    sum *= scale;
    return scale;
  }
  /// Weight of a logit that is no larger than max. A subnormal one is lost in a sum that is 1 or more.
  __device__ float weight(float logit) const { return logit == -INFINITY ? 0.0f : expf(logit - max); }
  /// What turns weighted sums into a normalised output; 0 for the empty state.
  __device__ float normaliser() const { return sum > 0 ? 1.0f / sum : 0.0f; }
  __device__ float lse() const { return sum > 0 ? max + logf(sum) : -INFINITY; }
};

/// Merge of two normalised partial outputs: out = (a*out + b*other) / (a + b).
struct MergeWeights {
  float a, b, lse;
  __device__ float operator()(float out, float other) const { return (a * out + b * other) / (a + b); }
};

/// `other_lse` must not be -inf: the caller leaves its bits alone then.
__device__ inline MergeWeights merge_weights(float lse, float other_lse) {
  const float m = fmaxf(lse, other_lse);
  const float a = expf(lse - m), b = expf(other_lse - m);
  return {a, b, m + logf(a + b)};
}

}  // namespace hindsight::kernels
