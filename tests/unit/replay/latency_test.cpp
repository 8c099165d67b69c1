// Latency replays: what is measured, where, and for batches of sequences of different lengths. Times
// themselves are never tested.

#include "replay/latency.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "support/named_backend.h"
#include "support/replay_case.h"

namespace hindsight::test {
namespace {

class LatencyReplay : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { make_named_backend(GetParam(), backend_); }

  ReplaySpec spec(const std::vector<MethodPoint>& points, int64_t batch = 1, StepRange steps = {}) {
    SweepPlan plan;
    plan.steps = steps;
    plan.file = "test.yaml";
    plan.traces = {{dir_ / "a.h5", "a.h5", "test.yaml"}, {dir_ / "b.h5", "b.h5", "test.yaml"}};
    plan.points = points;
    plan.batch = batch;
    plan.measure_latency = true;
    return resolve(plan, *backend_);
  }

  void write_traces(int64_t other_heads = 4) {
    write_small_trace(dir_ / "a.h5", {.n_tokens = 150, .prompt_tokens = 70, .head_dim = 64, .q_start = 70});
    write_small_trace(dir_ / "b.h5", {.n_tokens = 97,
                                      .prompt_tokens = 60,
                                      .n_q_heads = other_heads,
                                      .head_dim = 64,
                                      .q_start = 60,
                                      .seed = 2});
  }

  TempDir dir_;
  std::unique_ptr<Backend> backend_;
};

TEST_P(LatencyReplay, EveryMethodIsMeasuredByStage) {
  write_traces();
  std::vector<MethodPoint> points;
  for (const MethodDoc& doc : method_catalog().selectors) {
    std::vector<std::pair<std::string, ParameterValue>> given;
    if (doc.name != "dense") given.emplace_back("budget.ratio", 0.3);
    points.push_back(method_point(doc.name, given));
    if (!doc.evicts && doc.name != "dense") {
      given.emplace_back("retro.window", int64_t{4});
      points.push_back(method_point(doc.name, given));
    }
  }
  const ReplaySpec all = spec(points, 3);
  for (const ReplayPoint& point : all.points) {
    int layers = 0;
    // Three sequences: this trace, the other one, and this one again; the shorter one has 37 decode steps.
    const Measurements measured = replay_latency(*backend_, all, point, {2, 3}, [&] { ++layers; });
    EXPECT_EQ(layers, 2);
    ASSERT_EQ(measured.series.size(), 6u);
    for (const char* stage : {"append", "score", "select", "attend", "merge", "total"}) {
      const Series& times = series(measured, std::string("latency_us_") + stage);
      EXPECT_EQ(times.shape, (std::vector<int64_t>{8, 2, 2}));
      for (const double time : times.values)
        EXPECT_TRUE(std::isfinite(time) && time >= 0) << point.method.selector;
    }
    for (const Coordinate& coordinate : measured.coordinates) {
      if (coordinate.name != "latency_step") continue;
      const auto& steps = std::get<std::vector<int64_t>>(coordinate.values);
      EXPECT_LT(steps.back(), 37);
    }
    const Series& total = series(measured, "latency_us_total");
    EXPECT_EQ(total.description.ends_with("sum of the stages"), GetParam() == "cpu");
    // A backend that records steps times them apart from their stages.
    if (GetParam() != "cpu") continue;
    for (size_t i = 0; i < total.values.size(); ++i) {
      double sum = 0;
      for (const char* stage : {"append", "score", "select", "attend", "merge"})
        sum += series(measured, std::string("latency_us_") + stage).values[i];
      EXPECT_NEAR(total.values[i], sum, 1e-6 * sum);
    }
  }
}

TEST_P(LatencyReplay, StepsAreCountedFromTheEndOfThePrompt) {
  write_traces();
  const ReplaySpec late = spec({method_point("dense", {})}, 1, {.from = 10, .count = 16});
  const Measurements measured = replay_latency(*backend_, late, late.points[0], {1, 1}, [] {});
  EXPECT_EQ(measured.coordinates.at(0).name, "latency_step");
  EXPECT_EQ(std::get<std::vector<int64_t>>(measured.coordinates[0].values),
            (std::vector<int64_t>{11, 13, 15, 17, 19, 21, 23, 25}));
}

TEST_P(LatencyReplay, TracesOfDifferentModelsAreNotBatched) {
  write_traces(8);
  EXPECT_NO_THROW(spec({method_point("dense", {})}));
  EXPECT_THROW(spec({method_point("dense", {})}, 2), ConfigError);
}

TEST_P(LatencyReplay, TracesThatStoreALayerDifferentlyAreNotBatched) {
  write_traces();
  write_small_trace(
      dir_ / "wide.h5",
      {.n_tokens = 97, .prompt_tokens = 60, .head_dim = 64, .dtype = DType::float32, .q_start = 60});
  take_layer(dir_ / "b.h5", dir_ / "wide.h5", 3);
  EXPECT_NO_THROW(spec({method_point("dense", {})}));
  EXPECT_THROW(spec({method_point("dense", {})}, 2), ConfigError);
}

INSTANTIATE_TEST_SUITE_P(Backends, LatencyReplay, ::testing::Values("cpu", "cuda"),
                         [](const auto& backend) { return backend.param; });

TEST(LatencySteps, AreSpreadEvenlyAndWithinTheReplay) {
  EXPECT_EQ(latency_steps(1), std::vector<int64_t>{0});
  EXPECT_EQ(latency_steps(3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(latency_steps(512), (std::vector<int64_t>{32, 96, 160, 224, 288, 352, 416, 480}));
}

}  // namespace
}  // namespace hindsight::test
