// Blocks of many steps of one sequence, which have kernels of their own: dense attention, page mass and page
// scores against the CPU in double.

#include <gtest/gtest.h>

#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

/// What the kernels for blocks take, at sizes around those of their tiles.
BatchShape block_shape(uint64_t seed) {
  std::mt19937_64 generator(seed);
  const auto pick = [&](auto... values) {
    const std::vector<int64_t> choices{static_cast<int64_t>(values)...};
    return choices[generator() % choices.size()];
  };
  BatchShape shape;
  shape.seed = seed;
  shape.dtype = static_cast<DType>(pick(DType::float16, DType::bfloat16));
  shape.head_dim = pick(64, 80, 96, 128, 128);
  shape.group = pick(1, 4, 4, 5, 7, 8, 16);
  shape.n_kv_heads = pick(1, 2, 3);
  shape.page_size = pick(16, 16, 32, 64, 128);
  shape.n_tokens = {pick(300, 385, 640, 1027, 1500)};
  shape.prompt_tokens = {pick(1, 17, 128)};
  return shape;
}

struct BlockResult {
  std::vector<float> out, lse, kv_mass, q_mass;
};

BlockResult run_block(Resident& on, const std::vector<BlockStep>& steps) {
  const Block block = on.backend.make_block(steps);
  const auto out = poisoned<3>(on.backend, {block.size(), on.layer->n_q_heads, on.layer->head_dim});
  const auto lse = poisoned<2>(on.backend, {block.size(), on.layer->n_q_heads});
  on.backend.dense(*on.layer, *on.cache, block, out, lse);
  const auto mass_of = [&](Unit unit) {
    const auto mass = poisoned<3>(on.backend, {block.size(), on.layer->units(unit), on.cache->max_pages});
    on.backend.page_mass(*on.layer, *on.cache, block, unit, lse, mass);
    return on.backend.to_host(mass);
  };
  return {on.backend.to_host(out), on.backend.to_host(lse), mass_of(Unit::per_kv_head),
          mass_of(Unit::per_query_head)};
}

class GpuBlocks : public GpuTest<::testing::TestWithParam<int>> {};

TEST_P(GpuBlocks, AttentionAndMassEqualOracle) {
  const BatchShape shape = block_shape(static_cast<uint64_t>(GetParam()));
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  for (const int64_t count : {130, 257}) {
    const auto steps = steps_of(shape, Layout::consecutive, count, 1);
    const BlockResult actual = run_block(cuda, steps), expected = run_block(oracle, steps);
    expect_close("out", actual.out, expected.out, attention_tolerance);
    expect_close("lse", actual.lse, expected.lse, attention_tolerance);
    expect_close("mass of KV heads", actual.kv_mass, expected.kv_mass, attention_tolerance);
    expect_close("mass of query heads", actual.q_mass, expected.q_mass, attention_tolerance);
  }
}

TEST_P(GpuBlocks, ScoresEqualOracle) {
  const BatchShape shape = block_shape(static_cast<uint64_t>(GetParam()) + 100);
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  const auto steps = steps_of(shape, Layout::consecutive, 257, 1);
  const auto run = [&](Resident& on, UnitPolicy policy, bool rounded) {
    const auto scores = poisoned<3>(
        on.backend, {static_cast<int64_t>(steps.size()), on.layer->units(policy.unit), on.cache->max_pages});
    on.backend.score_pages(*on.layer, *on.cache, on.backend.make_block(steps), policy, rounded, scores);
    return on.backend.to_host(scores);
  };
  for (const UnitPolicy policy :
       {UnitPolicy{Unit::per_query_head, Combine::mean}, UnitPolicy{Unit::per_kv_head, Combine::mean},
        UnitPolicy{Unit::per_kv_head, Combine::sum}, UnitPolicy{Unit::per_kv_head, Combine::max}}) {
    expect_close("scores", run(cuda, policy, false), run(oracle, policy, false), score_tolerance);
    Tolerance rounded = rounded_score_tolerance(shape.dtype);
    rounded.absolute *= static_cast<double>(shape.group);
    expect_close("rounded scores", run(cuda, policy, true), run(oracle, policy, true), rounded);
  }
}

INSTANTIATE_TEST_SUITE_P(RandomShapes, GpuBlocks, ::testing::Range(0, 24));

class GpuLongBlocks : public GpuTest<> {};

// Logits of hundreds, whose largest come late, so that what was summed is scaled again and again; and few
// blocks over many tokens, which are split.
TEST_F(GpuLongBlocks, LargeLogitsEqualOracle) {
  for (const double norm : {1.0, 60.0}) {
    BatchShape shape;
    shape.dtype = DType::bfloat16;
    shape.head_dim = 128;
    shape.n_kv_heads = 1;
    shape.n_tokens = {9000};
    shape.prompt_tokens = {8900};
    shape.query_norm = norm;
    const auto batch = random_batch(shape);
    Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
    const auto steps = steps_of(shape, Layout::consecutive, 90, 1);
    const BlockResult actual = run_block(cuda, steps), expected = run_block(oracle, steps);
    const Tolerance tolerance = norm > 1 ? large_logit_tolerance : attention_tolerance;
    expect_close("out", actual.out, expected.out, tolerance);
    expect_close("lse", actual.lse, expected.lse, tolerance);
    expect_close("mass", actual.kv_mass, expected.kv_mass, tolerance);
  }
}

// So many blocks of rows that one goes through several tiles of pages, of which the last is in part only
// there.
TEST_F(GpuLongBlocks, ScoresOfManyTilesEqualOracle) {
  BatchShape shape;
  shape.dtype = DType::bfloat16;
  shape.head_dim = 64;
  shape.n_kv_heads = 8;
  shape.page_size = 8;
  shape.n_tokens = {4600};
  shape.prompt_tokens = {4200};
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  const auto steps = steps_of(shape, Layout::consecutive, 300, 1);
  const auto run = [&](Resident& on) {
    const auto scores = poisoned<3>(on.backend, {300, shape.n_kv_heads, on.cache->max_pages});
    on.backend.score_pages(*on.layer, *on.cache, on.backend.make_block(steps),
                           {Unit::per_kv_head, Combine::max}, false, scores);
    return on.backend.to_host(scores);
  };
  expect_close("scores", run(cuda), run(oracle), score_tolerance);
}

TEST_F(GpuLongBlocks, SameInputSameBytes) {
  BatchShape shape;
  shape.dtype = DType::bfloat16;
  shape.head_dim = 128;
  shape.n_tokens = {1500};
  shape.prompt_tokens = {1000};
  Resident cuda(*cuda_, random_batch(shape), shape.page_size);
  const auto steps = steps_of(shape, Layout::consecutive, 400, 1);
  const BlockResult once = run_block(cuda, steps);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const BlockResult again = run_block(cuda, steps);
    EXPECT_EQ(once.out, again.out);
    EXPECT_EQ(once.lse, again.lse);
    EXPECT_EQ(once.kv_mass, again.kv_mass);
  }
}

}  // namespace
}  // namespace hindsight::test
