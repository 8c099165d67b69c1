// Rows against the rows of several references on CUDA, by the formula in double: narrow and wide rows, and in
// a recording whose references change from run to run.

#include <gtest/gtest.h>

#include "support/compare_rows_case.h"
#include "support/gpu_test.h"

namespace hindsight::test {
namespace {

/// Sums in double, in another order.
constexpr double tolerance = 1e-13;

class CompareRowsOnCuda : public GpuTest<::testing::TestWithParam<int64_t>> {
 protected:
  Tensor<float, 2> rows(int64_t width, const std::vector<float>& values) {
    const auto tensor = cuda_->make_tensor<float, 2>({static_cast<int64_t>(values.size()) / width, width});
    cuda_->from_host(tensor, values);
    return tensor;
  }
};

TEST_P(CompareRowsOnCuda, AreRelativeErrorsByTheirFormula) {
  constexpr int64_t n = 5;
  const int64_t width = GetParam();
  const auto size = static_cast<size_t>(width);
  const std::vector<float> x = normal_values(n * width, 1);
  std::vector<float> r = normal_values(9 * width, 2);
  std::fill_n(r.begin() + 3 * width, width, 0.0f);
  const auto on_device = rows(width, x), reference = rows(width, r);
  const auto errors = cuda_->make_tensor<double, 1>({n});

  std::vector<int64_t> firsts;  // of two rows, one and two
  const auto work = [&] {
    const std::vector<Tensor<float, 2>> references{cuda_->rows_of(reference, firsts[0], 2),
                                                   cuda_->rows_of(reference, firsts[1], 1),
                                                   cuda_->rows_of(reference, firsts[2], 2)};
    cuda_->compare_rows(on_device, references, errors);
  };
  const auto expect_right = [&] {
    const std::vector<double> on_host = cuda_->to_host(errors);
    const int64_t of_row[n] = {firsts[0], firsts[0] + 1, firsts[1], firsts[2], firsts[2] + 1};
    for (int64_t i = 0; i < n; ++i) {
      const double expected =
          relative_error(std::span(x).subspan(static_cast<size_t>(i * width), size),
                         std::span(r).subspan(static_cast<size_t>(of_row[i] * width), size));
      const double error = on_host[static_cast<size_t>(i)];
      if (std::isnan(expected))
        EXPECT_TRUE(std::isnan(error)) << i;
      else
        EXPECT_NEAR(error, expected, tolerance * expected) << i;
    }
  };
  firsts = {6, 3, 0};
  work();
  expect_right();
  const std::unique_ptr<Recording> recording = cuda_->record([] {}, work);
  expect_right();
  for (const std::vector<int64_t>& others : {std::vector<int64_t>{1, 8, 4}, {7, 0, 2}}) {
    firsts = others;
    recording->rerun([] {}, work);
    expect_right();
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, CompareRowsOnCuda, ::testing::Values(1, 31, 96, 256, 1000, 5000),
                         [](const auto& width) { return std::to_string(width.param); });

}  // namespace
}  // namespace hindsight::test
