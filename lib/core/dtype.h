#pragma once
// Element types of stored keys, values and queries, and conversion to and from them.

#include <cstdint>
#include <span>
#include <string_view>

namespace hindsight {

enum class DType { float16, bfloat16, float32 };

/// Bytes of one element.
int64_t size_of(DType dtype);
/// "float16", "bfloat16", "float32".
std::string_view name_of(DType dtype);

/// Widens `source.size() / size_of(dtype)` elements. float16 and bfloat16 are exact in float and double.
/// Throws std::invalid_argument where the sizes do not match.
void to_float(DType dtype, std::span<const std::byte> source, std::span<float> target);
void to_double(DType dtype, std::span<const std::byte> source, std::span<double> target);
/// Rounds to nearest even.
void from_float(DType dtype, std::span<const float> source, std::span<std::byte> target);
/// `value` rounded to the precision of `dtype`.
float round_to(DType dtype, float value);
/// The same, but the largest finite value of its sign where that would be infinite.
float round_to_finite(DType dtype, float value);

}  // namespace hindsight
