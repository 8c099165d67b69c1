// Values that are on their way to the host while the backend goes on.

#include <gtest/gtest.h>

#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

TEST(Download, HasWhatWasThereWhenItBegan) {
  for (const auto& backend : {make_cpu_backend(), make_cpu_oracle()}) {
    const std::vector<float> first{1.5f, -2, 3, 0.25f, 5, -6}, second(6, 7.0f);
    const auto tensor = backend->make_tensor<float, 2>({3, 2});
    backend->from_host(tensor, first);
    const Download<float> whole = backend->begin_to_host(tensor);
    const Download<float> row = backend->begin_to_host(backend->rows_of(tensor, 1, 1));
    backend->from_host(tensor, second);
    EXPECT_EQ(whole.get(), first);
    EXPECT_EQ(whole.get(), first) << "as often as one likes";
    EXPECT_EQ(row.get(), (std::vector<float>{3, 0.25f}));
    EXPECT_EQ(backend->to_host(tensor), second);

    const Download<int32_t> numbers = backend->begin_to_host(backend->make_numbers(std::vector{4, 5, 6}));
    EXPECT_EQ(numbers.get(), (std::vector{4, 5, 6})) << "the tensor is gone";
  }
}

}  // namespace
}  // namespace hindsight::test
