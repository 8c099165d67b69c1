#pragma once
// Division by a number from 1 to 16 that is known at launch: a multiplication instead of the thirty
// instructions that a GPU needs for a division.

#include <cstdint>

namespace hindsight::kernels {

struct Divisor {
  int divisor;
  uint32_t reciprocal;  ///< floor(2^32 / divisor) + 1; 0 for 1

  explicit Divisor(int d)
      : divisor(d), reciprocal(d == 1 ? 0 : static_cast<uint32_t>((uint64_t{1} << 32) / d + 1)) {}
  /// Of 0 <= x < 2^28.
  __device__ int divide(int x) const {
    return reciprocal == 0 ? x : static_cast<int>(__umulhi(static_cast<uint32_t>(x), reciprocal));
  }
};

}  // namespace hindsight::kernels
