// The catalog is complete, and every configuration in configs/ fits it.

#include "methods/catalog.h"

#include <gtest/gtest.h>

#include <set>

#include "config/eval_plan.h"
#include "config/sweep_plan.h"

namespace hindsight {
namespace {

TEST(Catalog, EveryMethodIsDocumentedAndCanBeMade) {
  std::set<std::string> names;
  for (const MethodDoc& doc : method_catalog().selectors) {
    EXPECT_TRUE(names.insert(doc.name).second) << doc.name << " stands twice";
    EXPECT_FALSE(doc.summary.empty()) << doc.name;
    EXPECT_FALSE(doc.source.empty()) << doc.name;
    EXPECT_EQ(doc.evicts, !doc.refusal.empty()) << doc.name;
    ParameterSet parameters;
    for (const ParameterDoc& parameter : doc.parameters) {
      EXPECT_FALSE(parameter.summary.empty()) << doc.name << " " << parameter.path;
      EXPECT_FALSE(parameter.source.empty()) << doc.name << " " << parameter.path;
      if (parameter.default_value) parameters.set(parameter.path, *parameter.default_value);
    }
    parameters.set("budget.tokens", int64_t{64});
    EXPECT_NE(make_selector(doc.name, parameters), nullptr);
  }
  EXPECT_THROW(make_selector("no such", {}), std::out_of_range);
}

TEST(Catalog, PresetsAreQuestsTwoImplementations) {
  const auto value = [](const char* name, const char* path) {
    for (const ParameterDoc& doc : method_catalog().find_selector(name)->parameters)
      if (doc.path == path) return *doc.default_value;
    throw std::out_of_range(path);
  };
  EXPECT_EQ(value("quest", "gqa.unit"), ParameterValue("per_kv_head"));
  EXPECT_EQ(value("quest", "gqa.combine"), ParameterValue("mean"));
  EXPECT_EQ(value("quest_eval", "newest"), ParameterValue("competes"));
  EXPECT_EQ(value("quest_eval", "k_min"), ParameterValue(int64_t{3}));
  EXPECT_EQ(value("quest_kernel", "newest"), ParameterValue("forced"));
  EXPECT_EQ(value("quest_kernel", "k_min"), ParameterValue(int64_t{0}));
  EXPECT_EQ(value("quest_kernel", "score_type"), ParameterValue("storage"));
}

TEST(Configs, AllOfThemLoad) {
  if (!std::filesystem::exists(HINDSIGHT_SOURCE_DIR)) GTEST_SKIP() << "the sources are not here";
  int loaded = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HINDSIGHT_SOURCE_DIR "/configs")) {
    const SweepPlan plan = load_plan(entry.path(), method_catalog());
    EXPECT_FALSE(plan.points.empty()) << entry.path();
    for (const auto& trace : plan.traces) EXPECT_TRUE(std::filesystem::exists(trace.file)) << trace.file;
    ++loaded;
  }
  EXPECT_GE(loaded, 5);
}

TEST(Configs, EvaluationsLoad) {
  int loaded = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(HINDSIGHT_SOURCE_DIR "/experiments/closed_loop")) {
    if (entry.path().extension() != ".yaml") continue;
    const EvalPlan plan = load_eval_plan(entry.path(), method_catalog());
    EXPECT_FALSE(plan.points.empty()) << entry.path();
    EXPECT_TRUE(std::filesystem::exists(plan.model / "config.json")) << plan.model;
    ++loaded;
  }
  EXPECT_GE(loaded, 3);
}

struct BudgetCase {
  std::string name;
  double ratio;
  int64_t tokens, min_tokens, k_min;
  std::string full_when;
  int64_t position, expected;
};
void PrintTo(const BudgetCase& c, std::ostream* out) { *out << c.name; }

class BudgetTest : public ::testing::TestWithParam<BudgetCase> {};

TEST_P(BudgetTest, GivesThePagesOfTheFormula) {
  const BudgetCase& c = GetParam();
  ParameterSet parameters;
  parameters.set("page_size", int64_t{16});
  if (c.tokens > 0) {
    parameters.set("budget.tokens", c.tokens);
  } else {
    parameters.set("budget.ratio", c.ratio);
    parameters.set("budget.min_tokens", c.min_tokens);
  }
  parameters.set("k_min", c.k_min);
  parameters.set("full_when", c.full_when);
  EXPECT_EQ(Budget(parameters).pages(c.position), c.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Formula, BudgetTest,
    ::testing::Values(BudgetCase{"Floor", 0, 100, 0, 3, "tokens", 999, 6},
                      // 0.15 * 320 / 16 is 3 as a decimal and below 3 in floating point.
                      BudgetCase{"ExactDecimal", 0.15, 0, 0, 0, "tokens", 319, 3},
                      BudgetCase{"JustBelow", 0.15, 0, 0, 0, "tokens", 318, 2},
                      BudgetCase{"AtLeastKMin", 0, 16, 0, 3, "tokens", 999, 3},
                      BudgetCase{"NotMoreThanExist", 0, 16, 0, 3, "tokens", 17, 2},
                      BudgetCase{"AllOnceTokensAreCovered", 0, 20, 0, 0, "tokens", 19, 2},
                      BudgetCase{"QuestRoundsFirst", 0, 20, 0, 0, "pages", 19, 1},
                      BudgetCase{"RatioOneIsAll", 1.0, 0, 0, 3, "tokens", 1000, 63},
                      BudgetCase{"RatioFloorOfTokens", 0.15, 0, 256, 3, "tokens", 999, 16},
                      BudgetCase{"RatioAboveItsFloor", 0.15, 0, 256, 3, "tokens", 9999, 93},
                      BudgetCase{"NoPageAtAll", 0, 8, 0, 0, "pages", 999, 0}),
    [](const auto& budget) { return budget.param.name; });

}  // namespace
}  // namespace hindsight
