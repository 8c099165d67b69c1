// The whole replay, from trace file to series, against a computation from the definitions. Parity tests
// cannot find what the backends share: the replay's bookkeeping and the metrics.

#include <gtest/gtest.h>

#include "support/naive_replay.h"
#include "support/replay_case.h"

namespace hindsight::test {
namespace {

struct Case {
  std::string name;
  SmallTrace trace;
  StepRange steps;
  NaiveMethod method;
};

/// How GoogleTest shows a case.
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

SmallTrace shape(int64_t prompt, int64_t steps, int64_t q_heads, int64_t kv_heads) {
  return {.n_tokens = prompt + steps,
          .prompt_tokens = prompt,
          .n_q_heads = q_heads,
          .n_kv_heads = kv_heads,
          .head_dim = 8,
          .layers = {1, 2, 4},
          .dtype = DType::float32,
          .q_start = prompt};
}

class ReplayByDefinition : public ::testing::TestWithParam<Case> {};

TEST_P(ReplayByDefinition, EverySeriesIsWhatItsDefinitionSays) {
  const Case& c = GetParam();
  const TempDir dir;
  write_small_trace(dir / "t.h5", c.trace);
  const NaiveMethod& method = c.method;
  const std::string unit = method.per_query_head ? "per_query_head" : "per_kv_head";
  const std::unique_ptr<Backend> oracle = make_cpu_oracle();
  const Measurements measured = ReplayCase(dir / "t.h5", *oracle, c.steps)
                                    .measure(method_point("quest", {{"page_size", method.page_size},
                                                                    {"budget.ratio", method.ratio},
                                                                    {"k_min", method.k_min},
                                                                    {"gqa.unit", unit},
                                                                    {"gqa.combine", method.combine},
                                                                    {"newest", method.newest},
                                                                    {"retro.window", method.window}}));

  const TraceReader reader(dir / "t.h5");
  const int64_t decode_steps = reader.info().n_decode_steps();
  const int64_t n_steps = c.steps.count.value_or(decode_steps - c.steps.from);
  const std::vector<int64_t> sparse_layers{2, 4};
  for (size_t l = 0; l < sparse_layers.size(); ++l) {
    const NaiveReplay naive(reader.read_layer(sparse_layers[l]), method,
                            reader.info().prompt_tokens + c.steps.from, n_steps);
    for (const auto& [name, rows] : naive.series()) {
      const Series& actual = series(measured, name);
      const bool by_step = actual.dimensions.front() == "step";
      const int64_t width = actual.shape.back();
      ASSERT_EQ(by_step ? actual.shape[0] : 1, static_cast<int64_t>(rows.size())) << name;
      for (size_t row = 0; row < rows.size(); ++row) {
        ASSERT_EQ(static_cast<int64_t>(rows[row].size()), width) << name;
        for (int64_t i = 0; i < width; ++i) {
          const double a = actual.values[(row * sparse_layers.size() + l) * width + i], b = rows[row][i];
          ASSERT_EQ(std::isnan(a), std::isnan(b)) << name << " at " << row << ", " << i;
          if (std::isnan(b)) continue;
          // Results come to the host as float.
          ASSERT_NEAR(a, b, 1e-6) << name << " at " << row << ", " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ReplayByDefinition,
    ::testing::Values(
        Case{"Quest", shape(70, 30, 4, 2), {}, {.page_size = 8, .k_min = 1}},
        Case{"Retro", shape(70, 30, 4, 2), {}, {.page_size = 8, .window = 4, .k_min = 1}},
        Case{"HeadsOfTheirOwn",
             shape(61, 23, 5, 1),
             {},
             {.page_size = 7, .window = 3, .k_min = 0, .per_query_head = true}},
        Case{
            "NewestCompetes",
            shape(90, 31, 4, 1),
            {},
            {.page_size = 16, .window = 9, .k_min = 1, .ratio = 0.3, .combine = "max", .newest = "competes"}},
        Case{"NewestExtra",
             shape(33, 40, 7, 1),
             {},
             {.page_size = 5, .window = 2, .ratio = 0.15, .combine = "sum", .newest = "extra"}},
        Case{"BeginsLate", shape(50, 40, 2, 2), {11, 17}, {.page_size = 4, .window = 5, .ratio = 0.4}},
        Case{"WindowLongerThanTheReplay", shape(40, 6, 4, 2), {}, {.page_size = 4, .window = 30}},
        // A replay takes at most 256 steps at once.
        Case{"SeveralBlocks", shape(20, 300, 2, 1), {}, {.page_size = 8, .window = 6, .ratio = 0.1}}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace hindsight::test
