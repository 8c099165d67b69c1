// Rows against the rows of several references, on the CPU in float and in double.

#include <gtest/gtest.h>

#include <stdexcept>

#include "backend/backend.h"
#include "support/compare_rows_case.h"

namespace hindsight::test {
namespace {

class CompareRows : public ::testing::TestWithParam<bool> {
 protected:
  Tensor<float, 2> rows(int64_t width, const std::vector<float>& values) {
    const auto tensor = backend_->make_tensor<float, 2>({static_cast<int64_t>(values.size()) / width, width});
    backend_->from_host(tensor, values);
    return tensor;
  }
  std::unique_ptr<Backend> backend_ = GetParam() ? make_cpu_oracle() : make_cpu_backend();
};

TEST_P(CompareRows, AreRelativeErrorsByTheirFormula) {
  const std::vector<Tensor<float, 2>> references{rows(2, {0, 4}), rows(2, {0, 0, -1, 0})};
  const auto errors = backend_->make_tensor<double, 1>({3});
  backend_->compare_rows(rows(2, {3, 4, 3, 4, 1, 0}), references, errors);
  const std::vector<double> on_host = backend_->to_host(errors);
  EXPECT_EQ(on_host[0], 0.75);
  EXPECT_TRUE(std::isnan(on_host[1]));
  EXPECT_EQ(on_host[2], 2);
}

TEST_P(CompareRows, TakeRowsInTheMiddleOfTensors) {
  constexpr int64_t width = 33;
  const std::vector<float> x = normal_values(4 * width, 1), r = normal_values(9 * width, 2);
  const auto reference = rows(width, r);
  const std::vector<Tensor<float, 2>> references{backend_->rows_of(reference, 7, 1),
                                                 backend_->rows_of(reference, 2, 2)};
  const auto errors = backend_->make_tensor<double, 1>({10});
  backend_->compare_rows(backend_->rows_of(rows(width, x), 1, 3), references,
                         backend_->rows_of(errors, 5, 3));
  const std::vector<double> on_host = backend_->to_host(errors);
  const int64_t reference_rows[] = {7, 2, 3};
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_NEAR(on_host[static_cast<size_t>(5 + i)],
                relative_error(std::span(x).subspan(static_cast<size_t>((1 + i) * width), width),
                               std::span(r).subspan(static_cast<size_t>(reference_rows[i] * width), width)),
                1e-14);
}

TEST_P(CompareRows, ThatDoNotFitAreRefused) {
  const auto x = rows(2, {1, 2, 3, 4});
  const auto errors = backend_->make_tensor<double, 1>({2});
  const std::vector<Tensor<float, 2>> few{rows(2, {1, 2})},
      wide{rows(4, {1, 2, 3, 4}), rows(4, {1, 2, 3, 4})}, right{rows(2, {1, 2, 3, 4})};
  EXPECT_THROW(backend_->compare_rows(x, few, errors), std::invalid_argument);
  EXPECT_THROW(backend_->compare_rows(x, wide, errors), std::invalid_argument);
  EXPECT_THROW(backend_->compare_rows(x, right, backend_->rows_of(errors, 0, 1)), std::invalid_argument);
  EXPECT_NO_THROW(backend_->compare_rows(x, right, errors));
}

INSTANTIATE_TEST_SUITE_P(Cpu, CompareRows, ::testing::Bool(),
                         [](const auto& oracle) { return oracle.param ? "Double" : "Float"; });

}  // namespace
}  // namespace hindsight::test
