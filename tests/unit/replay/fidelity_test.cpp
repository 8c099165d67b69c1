// What a replay must show whatever the trace, and closed formulas where there are any.

#include "replay/fidelity.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "support/replay_case.h"

namespace hindsight::test {
namespace {

class FidelityReplay : public ::testing::Test {
 protected:
  FidelityReplay() {
    write_small_trace(dir_ / "t.h5", {.n_tokens = 150, .prompt_tokens = 70, .q_start = 70});
  }

  Measurements measure(const std::string& selector,
                       const std::vector<std::pair<std::string, ParameterValue>>& given) {
    return ReplayCase(dir_ / "t.h5", *backend_).measure(method_point(selector, given));
  }

  TempDir dir_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

void expect_same_bits(const Measurements& a, const Measurements& b) {
  ASSERT_EQ(a.series.size(), b.series.size());
  for (size_t i = 0; i < a.series.size(); ++i) {
    ASSERT_EQ(a.series[i].values.size(), b.series[i].values.size()) << a.series[i].name;
    EXPECT_EQ(0, std::memcmp(a.series[i].values.data(), b.series[i].values.data(),
                             a.series[i].values.size() * sizeof(double)))
        << a.series[i].name;
  }
}

TEST_F(FidelityReplay, WindowOneIsTheSelectorAlone) {
  expect_same_bits(measure("quest", {{"budget.ratio", 0.2}}),
                   measure("quest", {{"budget.ratio", 0.2}, {"retro.window", int64_t{1}}}));
}

TEST_F(FidelityReplay, FullBudgetIsDense) {
  for (const std::string selector :
       {"quest", "quest_eval", "quest_kernel", "oracle_pages", "random", "streaming"}) {
    // Quest's own code rounds the budget down to pages before it asks whether that is all: a ratio of 1
    // leaves a page out.
    const bool rounds_first = selector == "quest_eval" || selector == "quest_kernel";
    const Measurements measured = rounds_first ? measure(selector, {{"budget.tokens", int64_t{4096}}})
                                               : measure(selector, {{"budget.ratio", 1.0}});
    for (const double error : series(measured, "rel_l2_final").values) EXPECT_LT(error, 1e-5) << selector;
    for (const double recall : series(measured, "mass_recall_final").values)
      EXPECT_GT(recall, 1 - 1e-5) << selector;
    EXPECT_EQ(summary(measured, "effective_exposure_mean"), 1) << selector;
  }
  const Measurements dense = measure("dense", {});
  for (const double error : series(dense, "rel_l2_final").values) EXPECT_LT(error, 1e-5);
}

TEST_F(FidelityReplay, RetroShowsMoreAndNeverLosesMass) {
  double exposure = 1, error = 2;
  for (const int64_t window : {1, 2, 4, 8}) {
    const Measurements measured = measure("quest", {{"budget.ratio", 0.2}, {"retro.window", window}});
    const std::vector<double>&first = series(measured, "mass_recall_first").values,
          &final = series(measured, "mass_recall_final").values;
    for (size_t i = 0; i < first.size(); ++i) EXPECT_GE(final[i], first[i] - 1e-6);
    EXPECT_GE(summary(measured, "effective_exposure_mean"), exposure);
    EXPECT_LT(summary(measured, "rel_l2_final_mean"), error);
    exposure = summary(measured, "effective_exposure_mean");
    error = summary(measured, "rel_l2_final_mean");
  }
  EXPECT_GT(exposure, 1.1);
}

TEST_F(FidelityReplay, FirstErrorsDoNotDependOnTheWindow) {
  const Measurements alone = measure("quest", {{"budget.ratio", 0.2}});
  const Measurements revised = measure("quest", {{"budget.ratio", 0.2}, {"retro.window", int64_t{6}}});
  EXPECT_EQ(series(alone, "rel_l2_first").values, series(revised, "rel_l2_first").values);
  EXPECT_NE(series(alone, "rel_l2_final").values, series(revised, "rel_l2_final").values);
}

TEST_F(FidelityReplay, OracleFindsAllOfTheBestPagesAndOthersDoNot) {
  EXPECT_EQ(summary(measure("oracle_pages", {{"budget.ratio", 0.2}}), "oracle_page_recall_mean"), 1);
  EXPECT_LT(summary(measure("random", {{"budget.ratio", 0.2}}), "oracle_page_recall_mean"), 0.9);
}

TEST_F(FidelityReplay, TheSameBitsWhateverTheThreadsAndTheMemory) {
  const MethodPoint point = method_point("quest", {{"budget.ratio", 0.2}, {"retro.window", int64_t{4}}});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Measurements one = ReplayCase(dir_ / "t.h5", *backend_).measure(point);
  omp_set_num_threads(3);
  const Measurements three = ReplayCase(dir_ / "t.h5", *backend_).measure(point);
  ReplayCase forgetful(dir_ / "t.h5", *backend_);
  forgetful.keep_nothing();
  const Measurements again = forgetful.measure(point);
  omp_set_num_threads(threads);
  expect_same_bits(one, three);
  expect_same_bits(one, again);
}

TEST_F(FidelityReplay, DenseLayersAreLeftOut) {
  // The trace holds layers 0, 2, 3 of 5: dense_layers counts layers of the model.
  const Measurements measured = measure("quest", {{"budget.ratio", 0.2}});
  EXPECT_EQ(series(measured, "rel_l2_final").shape, (std::vector<int64_t>{80, 2, 4}));
  EXPECT_EQ(series(measure("quest", {{"budget.ratio", 0.2}, {"dense_layers", int64_t{0}}}), "rel_l2_final")
                .shape[1],
            3);
  EXPECT_THROW(measure("quest", {{"budget.ratio", 0.2}, {"dense_layers", int64_t{4}}}), ConfigError);
}

TEST_F(FidelityReplay, StepsAreThoseAskedFor) {
  const MethodPoint point = method_point("quest", {{"budget.tokens", int64_t{48}}});
  ReplayCase part(dir_ / "t.h5", *backend_, {10, 20});
  EXPECT_EQ(series(part.measure(point), "rel_l2_final").shape[0], 20);
  // Without a window, a step does not depend on those before it.
  const Measurements whole = ReplayCase(dir_ / "t.h5", *backend_).measure(point);
  const std::vector<double>& all = series(whole, "rel_l2_final").values;
  const Measurements of_part = part.measure(point);
  const std::vector<double>& some = series(of_part, "rel_l2_final").values;
  for (size_t i = 0; i < some.size(); ++i) EXPECT_NEAR(some[i], all[i + 10 * 2 * 4], 1e-6);
  EXPECT_THROW(ReplayCase(dir_ / "t.h5", *backend_, {80, std::nullopt}).measure(point), ConfigError);
  EXPECT_THROW(ReplayCase(dir_ / "t.h5", *backend_, {70, 11}).measure(point), ConfigError);
}

TEST_F(FidelityReplay, LayersThatTheTraceLacksAreAConfigurationError) {
  ReplayCase replay(dir_ / "t.h5", *backend_);
  replay.plan().layers = std::vector<int64_t>{1};
  EXPECT_THROW(replay.measure(method_point("dense", {})), ConfigError);
}

TEST_F(FidelityReplay, BytesAreCountedFromShapes) {
  const Measurements measured = measure("quest", {{"budget.tokens", int64_t{48}},
                                                  {"retro.window", int64_t{4}},
                                                  {"gqa.unit", std::string("per_kv_head")}});
  // Step 40: position 110, page 6 is newest and holds 15 tokens; 3 pages of 16 tokens are loaded, one of them
  // the newest.
  const int64_t d = 16, tokens = 16 + 16 + 15, at = 40 * 2;
  EXPECT_EQ(series(measured, "bytes_kv").values[at], 2 * tokens * 2 * d * 2);
  EXPECT_EQ(series(measured, "bytes_metadata").values[at], 7 * 2 * 2 * d * 2);
  EXPECT_EQ(series(measured, "bytes_output_cache").values[at], 3 * 4 * (d * 2 + 2 * (d + 1) * 4));
  EXPECT_EQ(series(measured, "flops").values[at], 4 * d * 4 * 4 * tokens + 2 * (7 * 2 * 2 * d) * 2);
}

TEST_F(FidelityReplay, BytesAreThoseOfTheLayersOwnType) {
  write_small_trace(dir_ / "wide.h5",
                    {.n_tokens = 150, .prompt_tokens = 70, .dtype = DType::float32, .q_start = 70});
  take_layer(dir_ / "t.h5", dir_ / "wide.h5", 3);
  const Measurements measured = measure("quest", {{"budget.ratio", 1.0}, {"retro.window", int64_t{4}}});
  // Step 40 of layer 2 in bfloat16 and of layer 3 in float32: 111 tokens in 7 pages of 2 KV heads.
  const int64_t d = 16, at = 40 * 2;
  for (const int64_t layer : {0, 1}) {
    const int64_t element = layer == 0 ? 2 : 4;
    EXPECT_EQ(series(measured, "bytes_kv").values[at + layer], 2 * 111 * 2 * d * element);
    EXPECT_EQ(series(measured, "bytes_metadata").values[at + layer], 7 * 2 * 2 * d * element);
    EXPECT_EQ(series(measured, "bytes_output_cache").values[at + layer],
              3 * 4 * (d * element + 2 * (d + 1) * 4));
  }
}

TEST_F(FidelityReplay, OverlapIsUndefinedAtTheFirstStepOnly) {
  const Measurements measured = measure("quest", {{"budget.ratio", 0.2}});
  const std::vector<double>& overlap = series(measured, "page_overlap").values;
  for (size_t i = 0; i < overlap.size(); ++i) EXPECT_EQ(std::isnan(overlap[i]), i < 2 * 2) << i;
}

TEST_F(FidelityReplay, StreamingNeverBringsAPageBack) {
  // A ratio of nearly one grows faster than the context: without its rule, the window would move back.
  const Measurements measured = measure("streaming", {{"budget.ratio", 0.9}, {"page_size", int64_t{4}}});
  const std::vector<double>& overlap = series(measured, "page_overlap").values;
  const std::vector<double>& kv = series(measured, "bytes_kv").values;
  for (size_t i = 4; i < overlap.size(); ++i) {
    // Whatever is new in S_t is the newest page, if anything.
    const double pages = std::ceil(kv[i / 2] / (2 * 4 * 2 * 16 * 2));
    EXPECT_LE((1 - overlap[i]) * pages, 1.0 + 1e-9) << i;
  }
}

/// More layers than may wait for metrics.
class ReplayOfManyLayers : public FidelityReplay {
 protected:
  ReplayOfManyLayers() {
    std::vector<int64_t> layers(2 * unobserved_layers + 2);
    std::iota(layers.begin(), layers.end(), 2);
    write_small_trace(dir_ / "deep.h5", {.n_tokens = 90,
                                         .prompt_tokens = 70,
                                         .n_model_layers = 2 + std::ssize(layers),
                                         .layers = layers,
                                         .q_start = 70});
  }
  const MethodPoint point_ = method_point("quest", {{"budget.ratio", 0.2}, {"retro.window", int64_t{4}}});
};

TEST_F(ReplayOfManyLayers, IsThatOfEachLayer) {
  const Measurements together = ReplayCase(dir_ / "deep.h5", *backend_).measure(point_);
  const Series& all = series(together, "rel_l2_final");
  const int64_t n_layers = all.shape[1], heads = all.shape[2];
  ASSERT_GT(n_layers, unobserved_layers + 1);
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    ReplayCase alone(dir_ / "deep.h5", *backend_);
    alone.plan().layers = std::vector{2 + layer};
    const Measurements measured = alone.measure(point_);
    const std::vector<double>& own = series(measured, "rel_l2_final").values;
    for (int64_t i = 0; i < std::ssize(own); ++i)
      ASSERT_EQ(own[i], all.values[(i / heads * n_layers + layer) * heads + i % heads]) << layer << " " << i;
  }
}

// Whatever is under way when a replay ends early ends before what it works on.
TEST_F(ReplayOfManyLayers, MayEndAtAnyLayer) {
  for (int64_t end_at = 1; end_at <= 2 * unobserved_layers + 2; ++end_at) {
    ReplayCase replay(dir_ / "deep.h5", *backend_);
    int64_t done = 0;
    replay.when_a_layer_is_done([&] {
      if (++done == end_at) throw Interrupted("enough");
    });
    EXPECT_THROW(replay.measure(point_), Interrupted);
    EXPECT_EQ(done, end_at);
  }
}

TEST(ReplayResolve, RetroRefusesWhatEvicts) {
  const MethodDoc* streaming = method_catalog().find_selector("streaming");
  ASSERT_NE(streaming, nullptr);
  EXPECT_TRUE(streaming->evicts);
  EXPECT_FALSE(streaming->refusal.empty());
}

}  // namespace
}  // namespace hindsight::test
