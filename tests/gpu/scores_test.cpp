// Page scores, true mass and random scores: CUDA against the CPU in double, on random shapes.

#include <gtest/gtest.h>

#include "core/counter_random.h"
#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

class GpuScores : public GpuTest<::testing::TestWithParam<int>> {};
class GpuSmallMass : public GpuTest<> {};

std::vector<float> run_scores(Resident& on, const std::vector<BlockStep>& steps, UnitPolicy policy,
                              bool round_to_storage) {
  const Block block = on.backend.make_block(steps);
  const auto scores =
      poisoned<3>(on.backend, {block.size(), on.layer->units(policy.unit), on.cache->max_pages});
  on.backend.score_pages(*on.layer, *on.cache, block, policy, round_to_storage, scores);
  return on.backend.to_host(scores);
}

std::vector<float> run_mass(Resident& on, const std::vector<BlockStep>& steps, Unit unit) {
  const Block block = on.backend.make_block(steps);
  const auto out = poisoned<3>(on.backend, {block.size(), on.layer->n_q_heads, on.layer->head_dim});
  const auto lse = poisoned<2>(on.backend, {block.size(), on.layer->n_q_heads});
  on.backend.dense(*on.layer, *on.cache, block, out, lse);
  const auto mass = poisoned<3>(on.backend, {block.size(), on.layer->units(unit), on.cache->max_pages});
  on.backend.page_mass(*on.layer, *on.cache, block, unit, lse, mass);
  return on.backend.to_host(mass);
}

TEST_P(GpuScores, QuestBoundEqualsOracle) {
  const BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 2000, 900);
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  for (const Layout layout : {Layout::consecutive, Layout::one_each, Layout::runs}) {
    const auto steps = steps_of(shape, layout, 70, 1);
    for (const Combine combine : {Combine::max, Combine::mean, Combine::sum}) {
      const UnitPolicy policy{Unit::per_kv_head, combine};
      Tolerance tolerance = score_tolerance;
      if (combine == Combine::sum) tolerance.absolute *= static_cast<double>(shape.group);
      expect_close("scores", run_scores(cuda, steps, policy, false), run_scores(oracle, steps, policy, false),
                   tolerance);
    }
    const UnitPolicy per_head{Unit::per_query_head, Combine::mean};
    for (const bool round : {false, true})
      expect_close("scores per head", run_scores(cuda, steps, per_head, round),
                   run_scores(oracle, steps, per_head, round),
                   round ? rounded_score_tolerance(shape.dtype) : score_tolerance);
  }
}

// A rounded score is a value of the storage type.
TEST_P(GpuScores, RoundedScoresAreInTheStorageType) {
  const BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 2500, 200);
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size);
  for (const float score :
       run_scores(cuda, steps_of(shape, Layout::runs, 5, 1), {Unit::per_query_head, Combine::mean}, true))
    ASSERT_EQ(score, round_to(shape.dtype, score));
}

// Without saturation these would be infinite, the negative ones as if the page did not exist, and sums NaN.
TEST_P(GpuScores, RoundedScoresOfExistingPagesAreFinite) {
  BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 2700, 200);
  shape.dtype = DType::float16;
  shape.query_norm = 5000;
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  const auto steps = steps_of(shape, Layout::runs, 5, 1);
  const std::vector<float> per_head = run_scores(cuda, steps, {Unit::per_query_head, Combine::mean}, true);
  EXPECT_EQ(*std::max_element(per_head.begin(), per_head.end()), 65504.0f);
  for (const UnitPolicy policy :
       {UnitPolicy{Unit::per_query_head, Combine::mean}, UnitPolicy{Unit::per_kv_head, Combine::sum},
        UnitPolicy{Unit::per_kv_head, Combine::max}}) {
    Tolerance tolerance = rounded_score_tolerance(shape.dtype);
    // Scores of opposite signs cancel: what is left has the error of the largest.
    tolerance.absolute = 65504.0 * tolerance.relative * static_cast<double>(shape.group);
    expect_close("scores", run_scores(cuda, steps, policy, true), run_scores(oracle, steps, policy, true),
                 tolerance);
  }
}

TEST_P(GpuScores, TrueMassEqualsOracle) {
  const BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 3000, 500);
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  for (const Layout layout : {Layout::consecutive, Layout::one_each, Layout::runs})
    for (const Unit unit : {Unit::per_kv_head, Unit::per_query_head})
      expect_close("mass", run_mass(cuda, steps_of(shape, layout, 70, 1), unit),
                   run_mass(oracle, steps_of(shape, layout, 70, 1), unit), attention_tolerance);
}

// More than 64 query rows, of which a sequence has few: single steps of a batch, and windows of it.
TEST_P(GpuScores, OfManySequencesEqualOracle) {
  BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 5000, 300);
  for (int64_t s = 0; s < 65; ++s) {
    shape.n_tokens.push_back(41 + 4 * ((s * 37) % 65));
    shape.prompt_tokens.push_back(1 + s % 20);
  }
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  for (const int64_t run : {1, 2, 5}) {
    auto steps = steps_of(shape, Layout::runs, run, 1);
    // Not all runs are as long as the longest.
    if (run > 1) steps.erase(steps.begin() + run);
    for (const Unit unit : {Unit::per_kv_head, Unit::per_query_head}) {
      const UnitPolicy policy{unit, Combine::mean};
      expect_close("scores", run_scores(cuda, steps, policy, false), run_scores(oracle, steps, policy, false),
                   score_tolerance);
      expect_close("mass", run_mass(cuda, steps, unit), run_mass(oracle, steps, unit), attention_tolerance);
    }
  }
}

// Below the smallest normal number both backends say 0, and so load the same pages: the lower ones.
TEST_F(GpuSmallMass, RanksAsTheCpuDoes) {
  std::vector<float> logits;
  for (const float logit : {-95.0f, -100.0f, -90.0f, 0.0f, -80.0f, -200.0f})
    logits.insert(logits.end(), 16, logit);
  const auto cpu = make_cpu_backend();
  for (const int32_t k : {1, 2, 3, 4, 5}) {
    const RankedMass actual = rank_by_mass(*cuda_, logits, 16, k),
                     expected = rank_by_mass(*cpu, logits, 16, k);
    EXPECT_EQ(actual.best, expected.best) << "k = " << k;
    for (const int64_t page : {0, 1, 2, 5}) EXPECT_EQ(actual.mass[page], 0) << "page " << page;
    EXPECT_GT(actual.mass[4], 0);
  }
}

TEST_P(GpuScores, RandomScoresAreTheSameNumbers) {
  const BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 4000, 500);
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size);
  const auto steps = steps_of(shape, Layout::runs, 9, 1);
  const Block block = cuda_->make_block(steps);
  const int64_t units = cuda.layer->n_q_heads, pages = cuda.cache->max_pages;
  const auto scores = poisoned<3>(*cuda_, {block.size(), units, pages});
  const uint64_t seed = 0x9123456789abcdefu + static_cast<uint64_t>(GetParam());
  cuda_->random_scores(*cuda.layer, *cuda.cache, block, seed, scores);
  const std::vector<float> actual = cuda_->to_host(scores);
  for (int64_t i = 0; i < block.size(); ++i)
    for (int64_t u = 0; u < units; ++u)
      for (int64_t page = 0; page < pages; ++page) {
        const int64_t position = steps[i].position;
        const float expected = page <= position / shape.page_size
                                   ? counter_uniform(seed, cuda.layer->layer, position, u, page)
                                   : -std::numeric_limits<float>::infinity();
        ASSERT_EQ(actual[(i * units + u) * pages + page], expected) << i << " " << u << " " << page;
      }
}

INSTANTIATE_TEST_SUITE_P(RandomShapes, GpuScores, ::testing::Range(0, 12));

}  // namespace
}  // namespace hindsight::test
