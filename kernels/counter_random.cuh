#pragma once
// A random number as a function of its place (splitmix64's finaliser over the coordinates): no state and no
// order.

#include <cstdint>

namespace hindsight::kernels {

__device__ inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1), a multiple of 2^-24.
__device__ inline float counter_uniform(uint64_t seed, int64_t layer, int64_t position, int64_t unit,
                                        int64_t page) {
  uint64_t h = mix64(seed);
  h = mix64(h ^ static_cast<uint64_t>(layer));
  h = mix64(h ^ static_cast<uint64_t>(position));
  h = mix64(h ^ static_cast<uint64_t>(unit));
  h = mix64(h ^ static_cast<uint64_t>(page));
  return static_cast<float>(h >> 40) * 0x1.0p-24f;
}

}  // namespace hindsight::kernels
