#pragma once
// Random numbers that are a function of their place: no state, no order, so every backend and every thread
// draws the same ones.

#include <cstdint>

namespace hindsight {

/// The finaliser of splitmix64: a bijection of 64 bits in which every input bit flips about half of the
/// output bits.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1), a multiple of 2^-24 (exact in float), for a place in a replay. Mixing after each
/// coordinate keeps places with equal sums apart.
constexpr float counter_uniform(uint64_t seed, int64_t layer, int64_t position, int64_t unit, int64_t page) {
  uint64_t h = mix64(seed);
  h = mix64(h ^ static_cast<uint64_t>(layer));
  h = mix64(h ^ static_cast<uint64_t>(position));
  h = mix64(h ^ static_cast<uint64_t>(unit));
  h = mix64(h ^ static_cast<uint64_t>(page));
  return static_cast<float>(h >> 40) * 0x1.0p-24f;
}

}  // namespace hindsight
