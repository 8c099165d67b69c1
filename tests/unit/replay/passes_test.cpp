// Points that differ in their window alone are replayed at once, and nobody can tell.

#include "replay/passes.h"

#include <gtest/gtest.h>

#include <cstring>

#include "replay/layer_replay.h"
#include "support/named_backend.h"
#include "support/replay_case.h"

namespace hindsight::test {
namespace {

using Given = std::vector<std::pair<std::string, ParameterValue>>;

MethodPoint with_window(const std::string& selector, Given given, int64_t window) {
  given.emplace_back("retro.window", window);
  return method_point(selector, given);
}

const Given budget{{"budget.ratio", 0.15}};

TEST(Passes, PointsThatDifferInTheirWindowAloneGoTogether) {
  const TempDir dir;
  write_small_trace(dir / "a.h5", {});
  write_small_trace(dir / "b.h5", {.seed = 2});
  const auto backend = make_cpu_backend();
  SweepPlan plan;
  plan.file = "test.yaml";
  for (const char* name : {"a.h5", "b.h5"}) plan.traces.push_back({dir / name, name, "test.yaml"});
  plan.points = {method_point("dense", {}),
                 method_point("quest", budget),
                 with_window("quest", {{"budget.ratio", 0.3}}, 2),
                 with_window("quest_eval", budget, 2),
                 with_window("quest", budget, 4),
                 with_window("quest", {{"budget.ratio", 0.15}, {"dense_layers", int64_t{0}}}, 4),
                 with_window("quest", budget, 2),
                 with_window("quest", budget, 1)};
  const ReplaySpec spec = resolve(plan, *backend);
  const std::string unwanted = spec.points.at(4).id;
  const std::vector<ReplayPass> passes =
      passes_of(spec, [&](const ReplayPoint& point) { return point.id != unwanted; });

  std::vector<std::vector<std::string>> ids;
  for (const ReplayPass& pass : passes) {
    ids.emplace_back();
    for (const ReplayPoint& point : pass) ids.back().push_back(point.id);
  }
  const auto id = [&](size_t point) { return spec.points.at(point).id; };
  const std::vector<std::vector<std::string>> expected{
      {id(0)}, {id(1), id(6), id(7)},           {id(2)},  {id(3)},  {id(5)},  // without the fourth
      {id(8)}, {id(9), id(12), id(14), id(15)}, {id(10)}, {id(11)}, {id(13)}};
  ASSERT_EQ(ids, expected);
  EXPECT_EQ(windows_of(passes[0]), (std::vector<int64_t>{1}));
  EXPECT_EQ(windows_of(passes[1]), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(windows_of(passes[6]), (std::vector<int64_t>{1, 2, 4}));
}

// What is measured of a pass is held until it is written.
TEST(Passes, HoldABoundedAmount) {
  ReplaySpec spec;
  ReplayTrace trace;
  trace.info.n_q_heads = 32;
  trace.info.n_kv_heads = 8;
  trace.info.head_dim = 128;
  trace.info.n_tokens = 40'000;
  trace.first_position = 30'000;
  trace.n_steps = 10'000;
  for (int64_t layer = 0; layer < 32; ++layer) {
    trace.layers.push_back(layer);
    trace.dtypes.push_back(DType::bfloat16);
    trace.q_starts.push_back(0);
  }
  spec.traces = {trace};
  for (int64_t window = 1; window <= 16; ++window) {
    ReplayPoint point;
    point.method = with_window("quest", budget, window);
    point.layers = trace.layers;
    spec.points.push_back(point);
  }
  const auto all = [](const ReplayPoint&) { return true; };
  size_t points = 0;
  for (const ReplayPass& pass : passes_of(spec, all)) {
    points += pass.size();
    EXPECT_LE(static_cast<int64_t>(pass.size()) * measured_bytes(replay_shape(trace, pass[0])),
              int64_t{1} << 30);
  }
  EXPECT_EQ(points, 16u);
  spec.traces[0].n_steps = 100;
  EXPECT_EQ(passes_of(spec, all).size(), 1u);
  spec.traces[0].n_steps = 10'000'000;
  EXPECT_EQ(passes_of(spec, all).size(), 16u) << "a point too large for a pass is one by itself";
}

// Where a backend cuts the work of a block may depend on how many steps it has, and sums are rounded by where
// they are cut.
TEST(Passes, BlocksDoNotDependOnTheWindow) {
  ReplayTrace trace;
  trace.info.n_q_heads = 32;
  trace.info.n_kv_heads = 8;
  trace.info.head_dim = 128;
  const auto backend = make_cpu_backend();
  const auto selector = make_selector("quest", method_point("quest", budget).parameters);
  for (const int64_t n_steps : {1, 100, 260, 4096, 10'000}) {
    for (const int64_t context : {20'000, 1'000'000}) {
      trace.n_steps = n_steps;
      trace.info.n_tokens = context;
      trace.first_position = context - n_steps;
      const int64_t steps = layer_replay_shape(trace, *selector, {1}).block_steps(*backend);
      EXPECT_EQ(layer_replay_shape(trace, *selector, {1, 64}).block_steps(*backend), steps);
      const int64_t blocks = (n_steps + steps - 1) / steps, last = n_steps - (blocks - 1) * steps;
      EXPECT_TRUE(blocks == 1 || steps % tile_steps == 0) << steps;
      EXPECT_LE(steps - last, blocks * tile_steps) << n_steps << ": the last block is much shorter";
    }
  }
}

struct PassCase {
  std::string backend, selector;
  Given given;
};

std::string name_of_case(const PassCase& c) {
  std::string name = c.backend + "_" + c.selector;
  for (const auto& [path, value] : c.given) name += "_" + text_of(value);
  std::ranges::replace_if(
      name, [](char letter) { return std::isalnum(letter) == 0; }, '_');
  return name;
}

/// How GoogleTest shows a case.
void PrintTo(const PassCase& c, std::ostream* out) { *out << name_of_case(c); }

std::vector<PassCase> pass_cases() {
  std::vector<PassCase> cases;
  for (const char* backend : {"cpu", "cuda"}) {
    for (const MethodDoc& doc : method_catalog().selectors)
      if (!doc.evicts) cases.push_back({backend, doc.name, doc.name == "dense" ? Given{} : budget});
    for (const char* unit : {"per_kv_head", "per_query_head"})
      for (const char* newest : {"forced", "competes", "extra"})
        cases.push_back({backend,
                         "quest",
                         {{"budget.ratio", 0.1},
                          {"gqa.unit", std::string(unit)},
                          {"newest", std::string(newest)},
                          {"page_size", int64_t{newest == std::string("extra") ? 8 : 16}}}});
  }
  return cases;
}

void expect_same(const Measurements& actual, const Measurements& expected) {
  ASSERT_EQ(actual.series.size(), expected.series.size());
  for (size_t i = 0; i < actual.series.size(); ++i) {
    const Series &a = actual.series[i], &b = expected.series[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.shape, b.shape) << a.name;
    ASSERT_EQ(a.values.size(), b.values.size()) << a.name;
    EXPECT_EQ(0, std::memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(double))) << a.name;
  }
  ASSERT_EQ(actual.summary.size(), expected.summary.size());
  for (size_t i = 0; i < actual.summary.size(); ++i) {
    EXPECT_EQ(actual.summary[i].first, expected.summary[i].first);
    EXPECT_EQ(0, std::memcmp(&actual.summary[i].second, &expected.summary[i].second, sizeof(double)))
        << actual.summary[i].first;
  }
}

class ReplayedAtOnce : public ::testing::TestWithParam<PassCase> {};

// Three layers of 300 steps, more than a block takes, so that windows reach across blocks and the end.
TEST_P(ReplayedAtOnce, PointsHaveTheBitsOfEachAlone) {
  const PassCase& c = GetParam();
  std::unique_ptr<Backend> backend;
  make_named_backend(c.backend, backend);
  if (!backend) return;
  const TempDir dir;
  write_small_trace(dir / "t.h5", {.n_tokens = 500,
                                   .prompt_tokens = 200,
                                   .n_q_heads = 8,
                                   .n_kv_heads = 2,
                                   .head_dim = 64,
                                   .layers = {2, 3, 4},
                                   .q_start = 200});
  std::vector<MethodPoint> points{method_point(c.selector, c.given)};
  for (const int64_t window : {7, 2, 16, 1, 4}) points.push_back(with_window(c.selector, c.given, window));
  ReplayCase replay(dir / "t.h5", *backend);
  const std::vector<Measurements> at_once = replay.measure(points);
  ASSERT_EQ(at_once.size(), points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    SCOPED_TRACE("point " + std::to_string(i));
    expect_same(at_once[i], replay.measure(points[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReplayedAtOnce, ::testing::ValuesIn(pass_cases()),
                         [](const auto& c) { return name_of_case(c.param); });

}  // namespace
}  // namespace hindsight::test
