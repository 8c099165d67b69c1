// A budget that ends inside a page grants that page as long as it covers the whole context, and whole pages
// only from then on: earlier steps of a replay list more pages than its last one.

#include <gtest/gtest.h>

#include <cmath>

#include "replay/latency.h"
#include "support/named_backend.h"
#include "support/replay_case.h"

namespace hindsight::test {
namespace {

struct CrossingCase {
  std::string backend, selector;
  bool is_floor = false;  ///< budget.min_tokens of a small ratio, else budget.tokens
};

std::string name_of_case(const CrossingCase& c) {
  return c.backend + "_" + c.selector + (c.is_floor ? "_min_tokens" : "_tokens");
}
void PrintTo(const CrossingCase& c, std::ostream* out) { *out << name_of_case(c); }

std::vector<CrossingCase> crossing_cases() {
  std::vector<CrossingCase> cases;
  for (const char* backend : {"cpu", "cuda"})
    for (const MethodDoc& doc : method_catalog().selectors)
      if (doc.name != "dense")
        for (const bool is_floor : {false, true}) cases.push_back({backend, doc.name, is_floor});
  return cases;
}

class BudgetCrossing : public ::testing::TestWithParam<CrossingCase> {
 protected:
  // Positions 70 to 149 in pages of 16: at 80 to 89 the budget covers 6 pages, from 90 on it grants 5.
  static constexpr int64_t budget = 90, steps_within = 20;

  void SetUp() override {
    make_named_backend(GetParam().backend, backend_);
    write_small_trace(dir_ / "t.h5", {.n_tokens = 150, .prompt_tokens = 70, .head_dim = 64, .q_start = 70});
  }

  MethodPoint point(int64_t window) const {
    std::vector<std::pair<std::string, ParameterValue>> given;
    if (GetParam().is_floor) {
      given.emplace_back("budget.ratio", 0.1);
      given.emplace_back("budget.min_tokens", budget);
    } else {
      given.emplace_back("budget.tokens", budget);
    }
    if (window > 1) given.emplace_back("retro.window", window);
    MethodPoint made = method_point(GetParam().selector, given);
    made.parameters.set("full_when", std::string("tokens"));
    return made;
  }
  std::vector<int64_t> windows() const {
    if (method_catalog().find_selector(GetParam().selector)->evicts) return {1};
    return {1, 4};
  }

  TempDir dir_;
  std::unique_ptr<Backend> backend_;
};

TEST_P(BudgetCrossing, StepsDoNotDependOnThoseReplayedAfterThem) {
  for (const int64_t window : windows()) {
    const Measurements some = ReplayCase(dir_ / "t.h5", *backend_, {0, steps_within}).measure(point(window));
    const Measurements all = ReplayCase(dir_ / "t.h5", *backend_).measure(point(window));
    for (const Series& expected : some.series) {
      if (expected.dimensions.front() != "step") continue;
      const Series& actual = series(all, expected.name);
      const int64_t row = static_cast<int64_t>(expected.values.size()) / steps_within;
      // The last queries of the shorter replay are final before their window has closed.
      for (int64_t i = 0; i < (steps_within - window + 1) * row; ++i) {
        const double a = actual.values[i], b = expected.values[i];
        ASSERT_EQ(std::isnan(a), std::isnan(b)) << expected.name << " at " << i;
        if (std::isnan(b)) continue;
        ASSERT_NEAR(a, b, 1e-5 * (1 + std::abs(b))) << expected.name << " at " << i;
      }
    }
  }
}

TEST_P(BudgetCrossing, LatencyIsMeasuredOnBothSides) {
  for (const int64_t window : windows()) {
    SweepPlan plan;
    plan.traces = {{dir_ / "t.h5", "t.h5", "test"}};
    plan.points = {point(window)};
    plan.measure_latency = true;
    const ReplaySpec spec = resolve(plan, *backend_);
    EXPECT_NO_THROW(replay_latency(*backend_, spec, spec.points[0], {1, 2}, [] {}));
  }
}

INSTANTIATE_TEST_SUITE_P(All, BudgetCrossing, ::testing::ValuesIn(crossing_cases()),
                         [](const auto& crossing) { return name_of_case(crossing.param); });

}  // namespace
}  // namespace hindsight::test
