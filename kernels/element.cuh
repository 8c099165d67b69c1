#pragma once
// Storage types: 16-byte loads widened to float, and rounding back.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cfloat>
#include <cstdint>

namespace hindsight::kernels {

__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(float x) { return x; }

/// Rounds to nearest even.
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline __half from_float(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline float from_float(float x) {
  return x;
}

template <class T>
inline constexpr float kLargestFinite = FLT_MAX;
template <>
inline constexpr float kLargestFinite<__half> = 65504.0f;
template <>
inline constexpr float kLargestFinite<__nv_bfloat16> = 0x1.fep127f;

/// The value of T nearest to x that is finite.
template <class T>
__device__ inline float round_to_finite(float x) {
  return to_float(from_float<T>(fminf(fmaxf(x, -kLargestFinite<T>), kLargestFinite<T>)));
}

/// Elements of a 16-byte access.
template <class T>
inline constexpr int kVec = 16 / static_cast<int>(sizeof(T));

/// Reads kVec<T> elements at a 16-byte aligned address.
template <class T>
__device__ inline void load_vec(const T* source, float (&target)[kVec<T>]) {
  alignas(16) T raw[kVec<T>];
  *reinterpret_cast<uint4*>(raw) = *reinterpret_cast<const uint4*>(source);
#pragma unroll
  for (int c = 0; c < kVec<T>; ++c) target[c] = to_float(raw[c]);
}

/// Eight 16-bit elements by sign, q+ and q-: the other ones are 0.
struct SplitBySign {
  uint4 positive, negative;
};
__device__ inline SplitBySign split_by_sign(uint4 x) {
  // All bits of each element that has its sign bit set.
  const auto mask = [](uint32_t two) { return (two >> 15 & 0x10001u) * 0xffffu; };
  const uint4 signs{mask(x.x), mask(x.y), mask(x.z), mask(x.w)};
  return {{x.x & ~signs.x, x.y & ~signs.y, x.z & ~signs.z, x.w & ~signs.w},
          {x.x & signs.x, x.y & signs.y, x.z & signs.z, x.w & signs.w}};
}

/// Four elements, read and written at once; the address is aligned to all of them.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T element[4];
};
template <class T>
__device__ inline float4 load_four(const T* source) {
  const Four<T> raw = *reinterpret_cast<const Four<T>*>(source);
  return {to_float(raw.element[0]), to_float(raw.element[1]), to_float(raw.element[2]),
          to_float(raw.element[3])};
}
template <class T>
__device__ inline void store_four(T* target, float4 x) {
  *reinterpret_cast<Four<T>*>(target) =
      Four<T>{from_float<T>(x.x), from_float<T>(x.y), from_float<T>(x.z), from_float<T>(x.w)};
}

}  // namespace hindsight::kernels
