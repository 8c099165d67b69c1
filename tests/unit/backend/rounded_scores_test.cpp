// Scores kept in the storage type (score_type: storage): none of an existing page is infinite, however large.

#include <gtest/gtest.h>

#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

class RoundedScores : public ::testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam() ? make_cpu_oracle() : make_cpu_backend();
};

TEST_P(RoundedScores, ExistingPagesHaveFiniteOnes) {
  // Scores reach 1e5 here, of either sign among the heads of a group; float16 ends at 65504.
  const BatchShape shape{.n_tokens = {301},
                         .prompt_tokens = {200},
                         .page_size = 3,
                         .dtype = DType::float16,
                         .query_norm = 10000};
  Resident on(*backend_, random_batch(shape), shape.page_size);
  const auto steps = steps_of(shape, Layout::consecutive, 50, 1);
  const Block block = backend_->make_block(steps);
  float largest = 0, smallest = 0;
  for (const Combine combine : {Combine::max, Combine::mean, Combine::sum}) {
    for (const Unit unit : {Unit::per_kv_head, Unit::per_query_head}) {
      const int64_t units = on.layer->units(unit), pages = on.cache->max_pages;
      const auto scores = poisoned<3>(*backend_, {block.size(), units, pages});
      backend_->score_pages(*on.layer, *on.cache, block, {unit, combine}, true, scores);
      const std::vector<float> host = backend_->to_host(scores);
      for (int64_t i = 0; i < block.size(); ++i) {
        for (int64_t u = 0; u < units; ++u) {
          for (int64_t page = 0; page * shape.page_size <= steps[i].position; ++page) {
            const float score = host[(i * units + u) * pages + page];
            ASSERT_TRUE(std::isfinite(score)) << score << " at " << i << " " << u << " " << page;
            if (unit == Unit::per_query_head) {
              largest = std::max(largest, score);
              smallest = std::min(smallest, score);
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(largest, 65504.0f);
  EXPECT_EQ(smallest, -65504.0f);
}

INSTANTIATE_TEST_SUITE_P(Precisions, RoundedScores, ::testing::Bool(),
                         [](const auto& oracle) { return oracle.param ? "Oracle" : "Float"; });

}  // namespace
}  // namespace hindsight::test
