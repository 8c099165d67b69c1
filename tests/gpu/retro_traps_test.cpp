// The traps of retrospective attention on the GPU, in every storage type: each output must be attention over
// the union of what its window loaded, computed from the definition.

#include <gtest/gtest.h>

#include <cstring>

#include "support/gpu_test.h"
#include "support/window_replay.h"

namespace hindsight::test {
namespace {

constexpr double tolerance = 3e-5, large_logit_tolerance = 3e-3;

class GpuRetroTraps : public GpuTest<::testing::TestWithParam<std::tuple<Unit, DType>>> {
 protected:
  Unit unit() const { return std::get<0>(GetParam()); }
  LayerTensors layer(CaseShape shape) const {
    shape.head_dim = 64;
    shape.dtype = std::get<1>(GetParam());
    return random_layer(shape);
  }
  int64_t units(const LayerTensors& tensors) const {
    return unit() == Unit::per_kv_head ? tensors.n_kv_heads : tensors.n_q_heads;
  }
  PageChoice same_for_all(const LayerTensors& tensors, const std::vector<std::set<int32_t>>& sets) const {
    return PageChoice(static_cast<size_t>(units(tensors)), sets);
  }
  WindowReplayResult replay(const LayerTensors& tensors, const PageChoice& sets, int64_t page_size,
                            int64_t window, int64_t block_steps) {
    return replay_window(*cuda_, tensors, sets, page_size, unit(), window, block_steps);
  }
  double error(const WindowReplayResult& result, const LayerTensors& tensors, const PageChoice& sets,
               int64_t page_size, int64_t window) const {
    return largest_error(result, WideLayer(tensors), sets, page_size, unit(), window);
  }
};

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, size_t count) {
  EXPECT_EQ(0, std::memcmp(a.data(), b.data(), count * sizeof(float)));
}

TEST_P(GpuRetroTraps, PageBegunAfterAQueryAddsNothing) {
  const LayerTensors tensors = layer({.n_tokens = 64, .prompt_tokens = 46});
  const PageChoice sets = same_for_all(tensors, {{0, 2}, {0, 2}, {0, 2, 3}, {0, 2, 3}, {0, 2, 3}});
  const auto alone = replay(tensors, sets, 16, 1, 5), revised = replay(tensors, sets, 16, 4, 5);
  expect_same_bits(alone.out, revised.out, static_cast<size_t>(2 * tensors.n_q_heads * tensors.head_dim));
  EXPECT_LT(error(revised, tensors, sets, 16, 4), tolerance);
}

TEST_P(GpuRetroTraps, NewestPageHasGrownSince) {
  const LayerTensors tensors = layer({.n_tokens = 64, .prompt_tokens = 50});
  const PageChoice sets = same_for_all(tensors, {{0, 1}, {0, 1}, {0, 3}, {1, 3}});
  EXPECT_LT(error(replay(tensors, sets, 16, 4, 4), tensors, sets, 16, 4), tolerance);
}

TEST_P(GpuRetroTraps, EmptySupplementLeavesEveryBit) {
  const LayerTensors tensors = layer({.n_tokens = 60, .prompt_tokens = 30, .query_norm = 30});
  const PageChoice sets = same_for_all(tensors, std::vector<std::set<int32_t>>(12, {0, 1}));
  const auto alone = replay(tensors, sets, 16, 1, 12), revised = replay(tensors, sets, 16, 8, 12);
  expect_same_bits(alone.out, revised.out, alone.out.size());
  expect_same_bits(alone.lse, revised.lse, alone.lse.size());
}

TEST_P(GpuRetroTraps, NothingAttendedIsTheIdentity) {
  const LayerTensors tensors = layer({.n_tokens = 60, .prompt_tokens = 30});
  const PageChoice sets = same_for_all(tensors, {{}, {}, {0, 1}, {}});
  EXPECT_LT(error(replay(tensors, sets, 16, 3, 4), tensors, sets, 16, 3), tolerance);
}

TEST_P(GpuRetroTraps, LargeLogitsDoNotOverflow) {
  const LayerTensors tensors = layer({.n_tokens = 90, .prompt_tokens = 48, .query_norm = 300});
  const PageChoice sets = random_sets(tensors, 30, 8, units(tensors), 0.3, true, 5);
  EXPECT_LT(error(replay(tensors, sets, 8, 6, 7), tensors, sets, 8, 6), large_logit_tolerance);
}

TEST_P(GpuRetroTraps, EveryWindowAndGroupGivesTheUnion) {
  for (const auto& [group, window] :
       {std::pair{1, 2}, std::pair{4, 4}, std::pair{5, 3}, std::pair{7, 16}, std::pair{16, 9}}) {
    const LayerTensors tensors = layer({.n_tokens = 121, .prompt_tokens = 70, .group = group});
    const PageChoice sets = random_sets(tensors, 45, 11, units(tensors), 0.35, false, 8);
    EXPECT_LT(error(replay(tensors, sets, 11, window, 13), tensors, sets, 11, window), tolerance)
        << "group " << group << ", window " << window;
  }
}

// The first output of a query is what the selector alone gives, whatever the window.
TEST_P(GpuRetroTraps, WindowLeavesFirstOutputs) {
  const LayerTensors tensors = layer({.n_tokens = 200, .prompt_tokens = 120});
  const PageChoice sets = random_sets(tensors, 60, 16, units(tensors), 0.4, true, 2);
  const auto alone = replay(tensors, sets, 16, 1, 60);
  for (const int64_t window : {2, 4, 16}) {
    const auto revised = replay(tensors, sets, 16, window, 60);
    expect_same_bits(alone.out, revised.first_out, alone.out.size());
    expect_same_bits(alone.lse, revised.first_lse, alone.lse.size());
  }
}

INSTANTIATE_TEST_SUITE_P(UnitsAndTypes, GpuRetroTraps,
                         ::testing::Combine(::testing::Values(Unit::per_kv_head, Unit::per_query_head),
                                            ::testing::Values(DType::float16, DType::bfloat16,
                                                              DType::float32)));

}  // namespace
}  // namespace hindsight::test
