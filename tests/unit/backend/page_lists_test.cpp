// Lists that cannot hold what is to be selected are refused before anything is written beside them.

#include <gtest/gtest.h>

#include <stdexcept>

#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

TEST(PageLists, TooShortForKIsRefused) {
  constexpr int64_t page_size = 16, pages = 5, capacity = 3;
  const BatchShape shape{.n_tokens = {75}, .prompt_tokens = {40}, .page_size = page_size};
  const auto backend = make_cpu_backend();
  Resident on(*backend, random_batch(shape), page_size);
  const Block block = backend->make_block({{0, 74, 0, 1}});
  const int64_t units = on.layer->n_kv_heads;
  const auto scores = uploaded<3>(*backend, {1, units, pages}, std::vector<float>(units * pages, 1.0f));
  const PageLists lists{filled<3>(*backend, {1, units, capacity}, -9), filled<2>(*backend, {1, units}, -9)};
  const auto select = [&](int32_t k, Newest newest) {
    backend->select_top_k(*on.cache, block, scores, {&k, 1}, newest, lists);
  };
  EXPECT_NO_THROW(select(3, Newest::forced));
  EXPECT_NO_THROW(select(3, Newest::competes));
  EXPECT_NO_THROW(select(2, Newest::extra));
  EXPECT_THROW(select(4, Newest::forced), std::invalid_argument);
  EXPECT_THROW(select(4, Newest::competes), std::invalid_argument);
  EXPECT_THROW(select(3, Newest::extra), std::invalid_argument);
  EXPECT_THROW(backend->select_top_k(*on.cache, block, scores, {}, Newest::forced, lists),
               std::invalid_argument);
}

}  // namespace
}  // namespace hindsight::test
