#include "core/dtype.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace hindsight {
namespace {

float bfloat16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#ifdef __F16C__
float float16_to_float(uint16_t bits) { return _cvtsh_ss(bits); }
uint16_t float_to_float16(float value) {
  return static_cast<uint16_t>(
      _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0));
}
#else
float float16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_float16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 aligns the result's last bit with 2^-24 and rounds to even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}
#endif

float largest_finite(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return 65504.0f;
    case DType::bfloat16:
      return 0x1.fep127f;
    case DType::float32:
      break;
  }
  return std::numeric_limits<float>::max();
}

void check_sizes(DType dtype, size_t bytes, size_t elements) {
  if (bytes != elements * static_cast<size_t>(size_of(dtype)))
    throw std::invalid_argument("conversion between arrays of different sizes");
}

template <class Target>
void widen(DType dtype, std::span<const std::byte> source, std::span<Target> target) {
  check_sizes(dtype, source.size(), target.size());
  const auto each = [&]<class Stored>(Stored, auto convert) {
    for (size_t i = 0; i < target.size(); ++i) {
      Stored stored;
      std::memcpy(&stored, source.data() + i * sizeof(Stored), sizeof(Stored));
      target[i] = static_cast<Target>(convert(stored));
    }
  };
  switch (dtype) {
    case DType::float16:
      return each(uint16_t{}, float16_to_float);
    case DType::bfloat16:
      return each(uint16_t{}, bfloat16_to_float);
    case DType::float32:
      return each(float{}, [](float value) { return value; });
  }
}

}  // namespace

int64_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float32:
      break;
  }
  return "float32";
}

void to_float(DType dtype, std::span<const std::byte> source, std::span<float> target) {
  widen(dtype, source, target);
}
void to_double(DType dtype, std::span<const std::byte> source, std::span<double> target) {
  widen(dtype, source, target);
}

void from_float(DType dtype, std::span<const float> source, std::span<std::byte> target) {
  check_sizes(dtype, target.size(), source.size());
  if (dtype == DType::float32) {
    if (!source.empty()) std::memcpy(target.data(), source.data(), target.size());
    return;
  }
  for (size_t i = 0; i < source.size(); ++i) {
    const uint16_t stored =
        dtype == DType::float16 ? float_to_float16(source[i]) : float_to_bfloat16(source[i]);
    std::memcpy(target.data() + 2 * i, &stored, 2);
  }
}

float round_to(DType dtype, float value) {
  switch (dtype) {
    case DType::float16:
      return float16_to_float(float_to_float16(value));
    case DType::bfloat16:
      return bfloat16_to_float(float_to_bfloat16(value));
    case DType::float32:
      break;
  }
  return value;
}

float round_to_finite(DType dtype, float value) {
  const float largest = largest_finite(dtype);
  return round_to(dtype, std::clamp(value, -largest, largest));
}

}  // namespace hindsight
