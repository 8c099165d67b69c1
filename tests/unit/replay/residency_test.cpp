// What stays resident between points is of no consequence to what is measured.

#include "replay/residency.h"

#include <gtest/gtest.h>

#include <cstring>

#include "support/replay_case.h"

namespace hindsight::test {
namespace {

TEST(Residency, PageMassHasTheSameBitsWhateverIsKept) {
  const TempDir dir;
  write_small_trace(dir / "t.h5", {.n_tokens = 400, .prompt_tokens = 300, .q_start = 300});
  const auto backend = make_cpu_backend();
  SweepPlan plan;
  plan.file = "test.yaml";
  plan.traces = {{dir / "t.h5", "t.h5", "test.yaml"}};
  plan.points = {method_point("oracle_pages", {})};
  const ReplaySpec spec = resolve(plan, *backend);
  const ReplayTrace& trace = spec.traces[0];
  const int64_t layer = trace.layers[0];
  for (const int64_t page_size : {16, 32}) {
    const auto mass = [&](bool has_reference) {
      Residency residency(*backend, trace, int64_t{1} << 30);
      if (has_reference) residency.reference(layer);
      return backend->to_host(*residency.page_mass(layer, page_size, Unit::per_kv_head));
    };
    const std::vector<float> first = mass(false), after = mass(true);
    ASSERT_EQ(first.size(), after.size());
    EXPECT_EQ(0, std::memcmp(first.data(), after.data(), first.size() * sizeof(float))) << page_size;
  }
}

// Backends take tiles of 16 steps: a block that ended inside one would make sums depend on the window.
TEST(Residency, BlocksAreWholeTiles) {
  for (const int64_t bytes_per_step : {1, 300'000, 700'000, 1'000'003, 4'000'000}) {
    const int64_t steps = steps_per_block(bytes_per_step);
    EXPECT_GE(steps, 16);
    EXPECT_EQ(steps % 16, 0);
  }
  EXPECT_EQ(steps_per_block(int64_t{1} << 30), 1);
  EXPECT_EQ(steps_per_block(1, 7), 7);
}

}  // namespace
}  // namespace hindsight::test
