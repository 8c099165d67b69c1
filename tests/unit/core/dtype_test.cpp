#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace hindsight {
namespace {

TEST(DTypeTest, Float16RoundsToNearestEven) {
  EXPECT_EQ(round_to(DType::float16, 1.0f + 0x1.0p-11f), 1.0f);                 // tie, to even below
  EXPECT_EQ(round_to(DType::float16, 1.0f + 0x1.8p-10f), 1.0f + 0x1.0p-9f);     // tie, to even above
  EXPECT_EQ(round_to(DType::float16, 1.0f + 0x1.002p-11f), 1.0f + 0x1.0p-10f);  // just above a tie
  EXPECT_EQ(round_to(DType::float16, 65504.0f), 65504.0f);                      // largest
  EXPECT_EQ(round_to(DType::float16, 65519.0f), 65504.0f);
  EXPECT_EQ(round_to(DType::float16, 65520.0f), std::numeric_limits<float>::infinity());
  EXPECT_EQ(round_to(DType::float16, 0x1.0p-24f), 0x1.0p-24f);  // smallest subnormal
  EXPECT_EQ(round_to(DType::float16, 0x1.0p-25f), 0.0f);        // tie with zero
  EXPECT_EQ(round_to(DType::float16, 0x1.8p-24f), 0x1.0p-23f);  // subnormal tie
  EXPECT_TRUE(std::signbit(round_to(DType::float16, -0.0f)));
  EXPECT_TRUE(std::isnan(round_to(DType::float16, std::numeric_limits<float>::quiet_NaN())));
}

TEST(DTypeTest, Bfloat16RoundsToNearestEven) {
  EXPECT_EQ(round_to(DType::bfloat16, 1.0f + 0x1.0p-8f), 1.0f);
  EXPECT_EQ(round_to(DType::bfloat16, 1.0f + 0x1.8p-7f), 1.0f + 0x1.0p-6f);
  EXPECT_EQ(round_to(DType::bfloat16, 3.4e38f), std::numeric_limits<float>::infinity());
  EXPECT_EQ(round_to(DType::bfloat16, -3.0f), -3.0f);
  EXPECT_TRUE(std::isnan(round_to(DType::bfloat16, std::numeric_limits<float>::signaling_NaN())));
}

TEST(DTypeTest, SaturatesToTheLargestFiniteValue) {
  const float infinity = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
  EXPECT_EQ(round_to_finite(DType::float16, 1e6f), 65504.0f);
  EXPECT_EQ(round_to_finite(DType::float16, -65520.0f), -65504.0f);
  EXPECT_EQ(round_to_finite(DType::float16, -infinity), -65504.0f);
  EXPECT_EQ(round_to_finite(DType::bfloat16, largest), 0x1.fep127f);
  EXPECT_EQ(round_to_finite(DType::bfloat16, -infinity), -0x1.fep127f);
  EXPECT_EQ(round_to_finite(DType::float32, infinity), largest);
  // Elsewhere it is rounding.
  EXPECT_EQ(round_to_finite(DType::float16, 1.0f + 0x1.8p-10f), 1.0f + 0x1.0p-9f);
  EXPECT_EQ(round_to_finite(DType::float16, 65519.0f), 65504.0f);
  EXPECT_EQ(round_to_finite(DType::bfloat16, -3.0f), -3.0f);
}

TEST(DTypeTest, EveryFloat16SurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto stored = static_cast<uint16_t>(bits);
    std::vector<std::byte> bytes(2), again(2);
    std::memcpy(bytes.data(), &stored, 2);
    std::vector<float> value(1);
    to_float(DType::float16, bytes, value);
    if (std::isnan(value[0])) continue;
    from_float(DType::float16, value, again);
    EXPECT_EQ(bytes, again) << std::hex << bits;
  }
}

TEST(DTypeTest, SizesMustMatch) {
  std::vector<std::byte> bytes(6);
  std::vector<float> values(2);
  EXPECT_THROW(to_float(DType::float32, bytes, values), std::invalid_argument);
  EXPECT_THROW(from_float(DType::float16, values, bytes), std::invalid_argument);
}

}  // namespace
}  // namespace hindsight
