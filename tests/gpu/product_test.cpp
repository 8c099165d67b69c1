// Products of linear layers on CUDA against sums in double: both ways through them (few rows, many rows), all
// types, one part and two, alone and added.

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backend/model_primitives.h"
#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

struct ProductCase {
  std::string name;
  DType dtype;
  int64_t rows, outputs, inputs;
  int64_t parts = 1;
};
void PrintTo(const ProductCase& c, std::ostream* out) { *out << c.name; }

class Products : public GpuTest<::testing::TestWithParam<ProductCase>> {
 protected:
  std::vector<float> normal(int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = distribution_(generator_);
    return values;
  }
  std::vector<float> product(const std::vector<float>& weights, const std::vector<float>& x, int64_t rows,
                             const std::vector<float>& before, bool add, int64_t capacity) {
    const ProductCase& c = GetParam();
    ModelPrimitives& math = *cuda_->model_primitives();
    std::vector<std::byte> stored(weights.size() * static_cast<size_t>(size_of(c.dtype)));
    from_float(c.dtype, weights, stored);
    const auto bytes = static_cast<int64_t>(stored.size());
    const Matrix matrix{cuda_->allocate(bytes), c.dtype, c.outputs, c.inputs};
    cuda_->upload(matrix.storage->data(), stored.data(), bytes);
    const Operand operand{cuda_->allocate(c.parts * capacity * c.inputs * size_of(c.dtype)), c.dtype, c.parts,
                          capacity, c.inputs};
    const auto y = uploaded<2>(*cuda_, {rows, c.outputs}, before);
    math.to_operand({uploaded<2>(*cuda_, {rows, c.inputs}, x), {}}, operand);
    math.multiply(matrix, operand, y, add);
    return cuda_->to_host(y);
  }

  std::mt19937 generator_{3};
  std::normal_distribution<float> distribution_;
};

TEST_P(Products, AreTheSumsInDouble) {
  const ProductCase& c = GetParam();
  std::vector<float> weights = normal(c.outputs * c.inputs);
  for (float& weight : weights) weight = round_to(c.dtype, weight);
  const std::vector<float> x = normal(c.rows * c.inputs), before = normal(c.rows * c.outputs);
  // Of rounding x to the operand's type: three times the deviation of a sum of so many errors.
  const double unit = c.dtype == DType::float32 ? 0x1p-22 : c.dtype == DType::float16 ? 0x1p-11 : 0x1p-8;
  const double tolerance =
      std::max(c.parts == 2 ? unit * unit : unit, 0x1p-20) * 6 * std::sqrt(static_cast<double>(c.inputs));
  for (const bool add : {false, true}) {
    const std::vector<float> y = product(weights, x, c.rows, before, add, c.rows + 3);
    for (int64_t row = 0; row < c.rows; ++row)
      for (int64_t output = 0; output < c.outputs; ++output) {
        double sum = add ? before[static_cast<size_t>(row * c.outputs + output)] : 0;
        for (int64_t i = 0; i < c.inputs; ++i)
          sum += static_cast<double>(weights[static_cast<size_t>(output * c.inputs + i)]) *
                 x[static_cast<size_t>(row * c.inputs + i)];
        ASSERT_NEAR(y[static_cast<size_t>(row * c.outputs + output)], sum, tolerance) << row << " " << output;
      }
  }
}

TEST_P(Products, ARowOfFewIsTheSameAlone) {
  const ProductCase& c = GetParam();
  if (c.rows > 16 || c.dtype == DType::float32 || c.outputs % 32 != 0 || c.inputs % 64 != 0)
    GTEST_SKIP() << "cuBLAS's: it promises nothing of the kind";
  const std::vector<float> weights = normal(c.outputs * c.inputs), x = normal(c.rows * c.inputs);
  const std::vector<float> zeros(static_cast<size_t>(c.rows * c.outputs));
  const std::vector<float> all = product(weights, x, c.rows, zeros, false, c.rows);
  for (int64_t row = 0; row < c.rows; ++row) {
    const std::vector<float> own(x.begin() + row * c.inputs, x.begin() + (row + 1) * c.inputs);
    EXPECT_EQ(product(weights, own, 1, std::vector<float>(static_cast<size_t>(c.outputs)), false, 1),
              std::vector<float>(all.begin() + row * c.outputs, all.begin() + (row + 1) * c.outputs))
        << row;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Products,
                         ::testing::Values(ProductCase{"One", DType::bfloat16, 1, 64, 128},
                                           ProductCase{"OneLong", DType::bfloat16, 1, 96, 4096},
                                           ProductCase{"OneChunk", DType::float16, 3, 32, 64},
                                           ProductCase{"OddChunks", DType::bfloat16, 8, 160, 64 * 19},
                                           ProductCase{"Nine", DType::float16, 9, 64, 1024},
                                           ProductCase{"Sixteen", DType::bfloat16, 16, 352, 704},
                                           ProductCase{"TwoParts", DType::bfloat16, 5, 64, 512, 2},
                                           ProductCase{"Seventeen", DType::bfloat16, 17, 64, 512},
                                           ProductCase{"ManyTwoParts", DType::float16, 40, 64, 512, 2},
                                           ProductCase{"OddShape", DType::bfloat16, 2, 40, 72},
                                           ProductCase{"Float32", DType::float32, 6, 64, 300}),
                         [](const auto& product) { return product.param.name; });

}  // namespace
}  // namespace hindsight::test
