#pragma once
// The order of pages by score, as unsigned integers that compare like it: better scores are larger.

#include <cstdint>

namespace hindsight::kernels {

/// Both zeros have one key, since they compare equal.
__device__ inline uint32_t sort_key(float score) {
  const uint32_t bits = __float_as_uint(score == 0.0f ? 0.0f : score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// The score of a key.
__device__ inline float score_of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

/// The same with ties to the lower page: no two pages of a row are equal. Never 0.
__device__ inline uint64_t score_order(float score, int page) {
  return static_cast<uint64_t>(sort_key(score)) << 32 | (0xffffffffu - static_cast<uint32_t>(page));
}

}  // namespace hindsight::kernels
