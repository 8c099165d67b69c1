// Configurations are expanded as written; broken ones are refused with every place of what is wrong.

#include "config/sweep_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "support/temp_dir.h"
#include "support/test_catalog.h"

namespace hindsight::test {
namespace {

SweepPlan load(const TempDir& dir, const std::string& yaml, const PlanOverrides& overrides = {}) {
  std::ofstream(dir / "c.yaml") << yaml;
  return load_plan(dir / "c.yaml", test_catalog(), overrides);
}

std::vector<std::filesystem::path> files_of(const SweepPlan& plan) {
  std::vector<std::filesystem::path> files;
  for (const TraceFile& trace : plan.traces) files.push_back(trace.file);
  return files;
}

std::string rendered(const SweepPlan& plan) {
  std::string text;
  for (const MethodPoint& point : plan.points) {
    text += point.name + " " + point.selector;
    for (const auto& [path, value] : point.parameters.values())
      text += fmt::format(" {}={}", path, text_of(value));
    text += "\n";
  }
  return text;
}

constexpr const char* whole = R"(version: 1
traces: [a.h5, sub/b.h5]
layers: [2, 5]
steps: {from: 3, count: 40}
device: cpu
measure: [latency]
repeats: 7
batch: 2
output: out/r.h5
defaults: {page_size: 32, budget: {ratio: 0.5}, gqa.combine: max}
methods:
  - {name: full, selector: dense}
  - name: retro
    selector: quest
    grid: {budget.ratio: [0.1, 0.2], retro.window: [2, 4]}
  - name: pairs
    selector: quest
    page_size: 8
    zip: {budget.tokens: [64, 128], k_min: [1, 2]}
)";

TEST(SweepPlan, ExpandsGridsAndZipsInTheOrderWritten) {
  const TempDir dir;
  const SweepPlan plan = load(dir, whole);
  EXPECT_EQ(rendered(plan), R"(full dense dense_layers=2 page_size=32
retro quest budget.min_tokens=0 budget.ratio=0.1 dense_layers=2 gqa.combine=max gqa.unit=per_kv_head k_min=3 page_size=32 retro.query=recomputed retro.window=2
retro quest budget.min_tokens=0 budget.ratio=0.1 dense_layers=2 gqa.combine=max gqa.unit=per_kv_head k_min=3 page_size=32 retro.query=recomputed retro.window=4
retro quest budget.min_tokens=0 budget.ratio=0.2 dense_layers=2 gqa.combine=max gqa.unit=per_kv_head k_min=3 page_size=32 retro.query=recomputed retro.window=2
retro quest budget.min_tokens=0 budget.ratio=0.2 dense_layers=2 gqa.combine=max gqa.unit=per_kv_head k_min=3 page_size=32 retro.query=recomputed retro.window=4
pairs quest budget.tokens=64 dense_layers=2 gqa.combine=max gqa.unit=per_kv_head k_min=1 page_size=8
pairs quest budget.tokens=128 dense_layers=2 gqa.combine=max gqa.unit=per_kv_head k_min=2 page_size=8
)");
  EXPECT_EQ(files_of(plan), (std::vector<std::filesystem::path>{dir / "a.h5", dir / "sub/b.h5"}));
  EXPECT_EQ(plan.layers, (std::vector<int64_t>{2, 5}));
  EXPECT_EQ(plan.steps.from, 3);
  EXPECT_EQ(plan.steps.count, 40);
  EXPECT_EQ(plan.device, "cpu");
  EXPECT_FALSE(plan.measure_fidelity);
  EXPECT_TRUE(plan.measure_latency);
  EXPECT_EQ(plan.repeats, 7);
  EXPECT_EQ(plan.batch, 2);
  EXPECT_EQ(plan.output, dir / "out/r.h5");
}

TEST(SweepPlan, WhatIsNotSaidHasADefault) {
  const TempDir dir;
  const SweepPlan plan = load(dir, "version: 1\ntraces: a.h5\nmethods: [{name: d, selector: dense}]\n");
  EXPECT_EQ(plan.device, "auto");
  EXPECT_TRUE(plan.measure_fidelity);
  EXPECT_FALSE(plan.measure_latency);
  EXPECT_EQ(plan.repeats, 20);
  EXPECT_EQ(plan.batch, 1);
  EXPECT_EQ(plan.steps.from, 0);
  EXPECT_FALSE(plan.steps.count);
  EXPECT_FALSE(plan.layers);
  EXPECT_EQ(plan.output, dir / "results/c.h5");
}

TEST(SweepPlan, OverridesReplaceValuesAndAxes) {
  const TempDir dir;
  PlanOverrides overrides;
  overrides.set = {"methods.retro.budget.ratio=0.3", "steps.count=5", "layers=[1]", "repeats=2",
                   "traces=[z.h5]"};
  overrides.output = "elsewhere.h5";
  overrides.device = "cuda:1";
  const SweepPlan plan = load(dir, whole, overrides);
  ASSERT_EQ(plan.points.size(), 5u);
  EXPECT_EQ(plan.points[1].parameters.real("budget.ratio"), 0.3);
  EXPECT_EQ(plan.points[2].parameters.integer("retro.window"), 4);
  EXPECT_EQ(plan.steps.count, 5);
  EXPECT_EQ(plan.layers, std::vector<int64_t>{1});
  EXPECT_EQ(plan.output, "elsewhere.h5");
  EXPECT_EQ(plan.device, "cuda:1");
  EXPECT_EQ(files_of(plan), std::vector<std::filesystem::path>{dir / "z.h5"});
  EXPECT_EQ(plan.traces[0].place, "--set traces=[z.h5]");
}

TEST(SweepPlan, OverridesOfDefaultsConcernMethodsThatDoNotSayIt) {
  const TempDir dir;
  const SweepPlan plan = load(dir, whole, {{"defaults.page_size=64"}, std::nullopt, std::nullopt});
  EXPECT_EQ(plan.points.front().parameters.integer("page_size"), 64);
  EXPECT_EQ(plan.points.back().parameters.integer("page_size"), 8);
}

TEST(SweepPlan, OverridesOfAMethodWhoseNameHoldsADotAreItsOwn) {
  const TempDir dir;
  const SweepPlan plan = load(dir,
                              "version: 1\ntraces: a.h5\ndefaults: {budget.ratio: 0.1}\nmethods:\n"
                              "  - {name: a, selector: quest}\n  - {name: a.b, selector: quest}\n",
                              {{"methods.a.b.k_min=7", "methods.a.k_min=5"}, std::nullopt, std::nullopt});
  ASSERT_EQ(plan.points.size(), 2u);
  EXPECT_EQ(plan.points[0].parameters.integer("k_min"), 5);
  EXPECT_EQ(plan.points[1].parameters.integer("k_min"), 7);
}

TEST(SweepPlan, RefinementsAreAbsentUntilOneOfTheirParametersIsGiven) {
  const TempDir dir;
  const SweepPlan plan = load(dir,
                              "version: 1\ntraces: a.h5\ndefaults: {budget.ratio: 0.1}\nmethods:\n"
                              "  - {name: plain, selector: quest}\n"
                              "  - {name: refined, selector: quest, retro.window: 2}\n");
  EXPECT_FALSE(plan.points[0].parameters.has("retro.query"));
  EXPECT_EQ(plan.points[1].parameters.choice("retro.query"), "recomputed");
  EXPECT_FALSE(plan.points[1].parameters.has("retro.refresh"));  // of no meaning in a replay
}

TEST(SweepPlan, TheResolvedConfigurationIsTheSameSweep) {
  const TempDir dir;
  const SweepPlan plan = load(dir, whole);
  const SweepPlan again = load(dir, plan.resolved_yaml);
  EXPECT_EQ(plan.output, again.output);
  EXPECT_EQ(files_of(plan), files_of(again));
  EXPECT_EQ(plan.resolved_yaml.find(dir.path().string()), std::string::npos)
      << "paths are relative to the file: the same sweep elsewhere has the same text";
  EXPECT_EQ(rendered(plan), rendered(again));
  EXPECT_EQ(plan.resolved_yaml, again.resolved_yaml);
}

TEST(SweepPlan, GlobsAreExpandedSortedAndWithoutDuplicates) {
  const TempDir dir;
  for (const char* name : {"b.h5", "a.h5", "c.txt"}) std::ofstream(dir / name) << "";
  const SweepPlan plan =
      load(dir, "version: 1\ntraces: ['*.h5', a.h5]\nmethods: [{name: d, selector: dense}]\n");
  EXPECT_EQ(files_of(plan), (std::vector<std::filesystem::path>{dir / "a.h5", dir / "b.h5"}));
}

TEST(SweepPlan, TracesAreNamedAsTheConfigurationNamesThem) {
  const TempDir dir;
  for (const char* folder : {"p", "q", "sub"}) std::filesystem::create_directory(dir / folder);
  for (const char* name : {"p/code.h5", "q/code.h5"}) std::ofstream(dir / name) << "";
  const std::string absolute = (dir / "p/../far.h5").string();
  std::ofstream(dir / "sub/c.yaml") << "version: 1\ntraces:\n  - ../near.h5\n  - ../?/*.h5\n  - " << absolute
                                    << "\nmethods: [{name: d, selector: dense}]\n";
  const SweepPlan plan = load_plan(dir / "sub/./c.yaml", test_catalog());
  std::vector<std::string> names, places;
  for (const TraceFile& trace : plan.traces) {
    names.push_back(trace.name);
    places.push_back(trace.place.substr(trace.place.rfind("c.yaml")));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"../near.h5", "../p/code.h5", "../q/code.h5",
                                             (dir / "far.h5").string()}));
  EXPECT_EQ(places, (std::vector<std::string>{"c.yaml:3:5", "c.yaml:4:5", "c.yaml:4:5", "c.yaml:5:5"}));
}

TEST(SweepPlan, FoldersAndFilesNamedLikePatternsAreTakenAsTheyAre) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "run[1]");
  for (const char* name : {"run[1]/a.h5", "run[1]/b[2].h5"}) std::ofstream(dir / name) << "";
  std::ofstream(dir / "run[1]/c.yaml")
      << "version: 1\ntraces: ['a*.h5', 'b[2].h5']\nmethods: [{name: d, selector: dense}]\n";
  const SweepPlan plan = load_plan(dir / "run[1]/c.yaml", test_catalog());
  EXPECT_EQ(files_of(plan),
            (std::vector<std::filesystem::path>{dir / "run[1]/a.h5", dir / "run[1]/b[2].h5"}));
}

TEST(SweepPlan, AByteOrderMarkAndLineEndsOfOtherSystemsChangeNothing) {
  const TempDir dir;
  std::string windows = "\xef\xbb\xbf";
  for (const char* c = whole; *c; ++c) windows += *c == '\n' ? std::string("\r\n") : std::string(1, *c);
  EXPECT_EQ(rendered(load(dir, windows)), rendered(load(dir, whole)));
}

TEST(PointId, DoesNotChangeFromReleaseToRelease) {
  MethodPoint point{"retro", "quest", {}};
  point.parameters.set("budget.ratio", 0.1);
  point.parameters.set("retro.window", int64_t{4});
  point.parameters.set("gqa.combine", std::string("mean"));
  // printf 'name=retro\nselector=quest\nbudget.ratio=0.1\ngqa.combine=mean\nretro.window=4\nsteps=0+all\n
  //         layers=2,5\ntrace=ab\n' | sha256sum
  EXPECT_EQ(point_id(point, {}, {2, 5}, "ab"), "8adead7664badb16");
}

TEST(PointId, DependsOnWhatIsComputedAndNothingElse) {
  const TempDir dir;
  const SweepPlan plan = load(dir, whole);
  const auto id = [&](const MethodPoint& point) { return point_id(point, plan.steps, {2, 5}, "digest"); };
  EXPECT_EQ(id(plan.points[1]).size(), 16u);
  EXPECT_NE(id(plan.points[1]), id(plan.points[2]));
  EXPECT_EQ(id(plan.points[1]), id(load(dir, whole, {{"repeats=3"}, "other.h5", "cpu"}).points[1]));
  EXPECT_NE(id(plan.points[1]), point_id(plan.points[1], plan.steps, {2, 5}, "another"));
  EXPECT_NE(id(plan.points[1]), point_id(plan.points[1], plan.steps, {2}, "digest"));
  EXPECT_NE(id(plan.points[1]), point_id(plan.points[1], {0, 40}, {2, 5}, "digest"));
}

struct Broken {
  std::string name, yaml;
  std::string place;  // ":line:column", or ":line:" where the column is the parser's affair
  std::string fragment;
};

/// A good configuration with one top-level line more (line 4), or another method.
std::string with(const std::string& line) {
  return "version: 1\ntraces: [a.h5]\nmethods: [{name: d, selector: dense}]\n" + line + "\n";
}
std::string method(const std::string& entry) {
  return "version: 1\ntraces: [a.h5]\nmethods:\n  - " + entry + "\n";
}

/// [1, 2, ..., count]
std::string numbers(int count) {
  std::string list = "[1";
  for (int i = 2; i <= count; ++i) list += fmt::format(", {}", i);
  return list + "]";
}

/// How GoogleTest shows a case.
void PrintTo(const Broken& broken, std::ostream* out) { *out << broken.name; }

std::vector<Broken> broken_configurations() {
  return {
      {"Empty", "", ":1:1", "empty"},
      {"OnlyComments", "# nothing\n", ":1:1", "empty"},
      {"Null", "~\n", ":1:1", "empty"},
      {"NotYaml", "version: 1\ntraces: [a.h5\nmethods: x: y", ":3:", "not YAML"},
      {"Tab", "version: 1\ntraces:\n\t- a.h5\n", ":3:", "not YAML"},
      {"AList", "- version: 1\n", ":1:1", "a map"},
      {"AScalar", "hello\n", ":1:1", "a map"},
      {"TwoDocuments", with("") + "---\nversion: 1\n", ":6:1", "2 documents"},
      {"NoVersion", "traces: [a.h5]\nmethods: [{name: d, selector: dense}]\n", ":1:1", "version is missing"},
      {"VersionTwo", "version: 2\ntraces: [a.h5]\nmethods: [{name: d, selector: dense}]\n", ":1:10",
       "2 is not known"},
      {"VersionQuoted", "version: \"1\"\ntraces: [a.h5]\nmethods: [{name: d, selector: dense}]\n", ":1:10",
       "integer"},
      {"NoTraces", "version: 1\nmethods: [{name: d, selector: dense}]\n", ":1:1", "traces is missing"},
      {"TracesEmpty", "version: 1\ntraces: []\nmethods: [{name: d, selector: dense}]\n", ":2:9", "is empty"},
      {"TracesMap", "version: 1\ntraces: {a: b}\nmethods: [{name: d, selector: dense}]\n", ":2:9", "a map"},
      {"TraceNull", "version: 1\ntraces: [~]\nmethods: [{name: d, selector: dense}]\n", ":2:10", "a text"},
      {"NoMethods", "version: 1\ntraces: [a.h5]\n", ":1:1", "methods is missing"},
      {"MethodsEmpty", "version: 1\ntraces: [a.h5]\nmethods: []\n", ":3:10", "is empty"},
      {"MethodsMap", "version: 1\ntraces: [a.h5]\nmethods: {name: d}\n", ":3:10", "list"},
      {"UnknownKey", with("repeat: 3"), ":4:1", "did you mean repeats"},
      {"MergeKey", with("<<: {repeats: 3}"), ":4:1", "is not known"},
      {"DuplicateKey", with("version: 1"), ":4:1", "stands here twice"},
      {"RepeatsZero", with("repeats: 0"), ":4:10", "1 to 1000000"},
      {"RepeatsOctal", with("repeats: 010"), ":4:10", "leading zero"},
      {"RepeatsReal", with("repeats: 2.5"), ":4:10", "integer"},
      {"RepeatsNull", with("repeats:"), ":4:1", "is nothing"},
      {"RepeatsHuge", with("repeats: 99999999999999999999"), ":4:10", "too large"},
      {"RepeatsList", with("repeats: [1]"), ":4:10", "a list"},
      {"BatchNegative", with("batch: -1"), ":4:8", "1 to 65536"},
      {"LayersText", with("layers: some"), ":4:9", "all, or a list"},
      {"LayersEmpty", with("layers: []"), ":4:9", "is empty"},
      {"LayersNegative", with("layers: [2, -1]"), ":4:13", "at least 0"},
      {"LayersTwice", with("layers: [2, 2]"), ":4:13", "stands twice"},
      {"StepsUnknown", with("steps: {start: 3}"), ":4:9", "did you mean"},
      {"StepsNone", with("steps: {count: 0}"), ":4:16", "at least 1"},
      {"StepsScalar", with("steps: 5"), ":4:8", "a map"},
      {"DeviceUnknown", with("device: gpu"), ":4:9", "auto, cpu, cuda"},
      {"DeviceNumber", with("device: cuda:x"), ":4:9", "auto, cpu, cuda"},
      {"MeasureUnknown", with("measure: [fidelty]"), ":4:11", "did you mean fidelity"},
      {"MeasureEmpty", with("measure: []"), ":4:10", "is empty"},
      {"MeasureTwice", with("measure: [latency, latency]"), ":4:20", "stands twice"},
      {"OutputMap", with("output: {a: b}"), ":4:9", "a text"},
      {"DefaultsUnknown", with("defaults: {page_sise: 8}"), ":4:12", "did you mean page_size"},
      {"DefaultsRefinement", with("defaults: {retro: {window: 2}}"), ":4:20", "refinement"},
      {"DefaultsOutOfRange", with("defaults: {page_size: 0}"), ":4:23", "out of range"},
      {"MethodScalar", method("quest"), ":4:5", "a map"},
      {"NoName", method("{selector: dense}"), ":4:5", "name is missing"},
      {"NoSelector", method("{name: q}"), ":4:5", "selector is missing"},
      {"UnknownSelector", method("{name: q, selector: qest, budget.ratio: 0.1}"), ":4:25",
       "did you mean quest"},
      {"DuplicateName", method("{name: d, selector: dense}\n  - {name: d, selector: dense}"), ":5:12",
       "is taken"},
      {"UnknownParameter", method("{name: q, selector: quest, budget: {ration: 0.1}}"), ":4:41",
       "did you mean budget.ratio"},
      {"ParameterOfAnother", method("{name: d, selector: dense, k_min: 3}"), ":4:32", "no parameter k_min"},
      {"NoBudget", method("{name: q, selector: quest}"), ":4:5", "needs a budget"},
      {"TwoBudgets", method("{name: q, selector: quest, budget: {ratio: 0.1, tokens: 64}}"), ":4:48",
       "contradicts"},
      {"MinTokensOfTokens", method("{name: q, selector: quest, budget: {tokens: 64, min_tokens: 8}}"),
       ":4:65", "no meaning"},
      {"RatioZero", method("{name: q, selector: quest, budget.ratio: 0}"), ":4:46", "out of range"},
      {"RatioAboveOne", method("{name: q, selector: quest, budget.ratio: 1.5}"), ":4:46", "above 0 to 1"},
      {"RatioNaN", method("{name: q, selector: quest, budget.ratio: .nan}"), ":4:46", "a number"},
      {"RatioText", method("{name: q, selector: quest, budget.ratio: \"0.1\"}"), ":4:46", "a number"},
      {"RatioHex", method("{name: q, selector: quest, budget.ratio: 0x1}"), ":4:46", "a number"},
      {"UnknownChoice", method("{name: q, selector: quest, budget.ratio: 0.1, gqa: {combine: average}}"),
       ":4:66", "did you mean"},
      {"GivenTwice", method("{name: q, selector: quest, budget: {ratio: 0.1}, budget.ratio: 0.2}"), ":4:54",
       "given twice"},
      {"GridAndValue", method("{name: q, selector: quest, budget.ratio: 0.1, grid: {budget.ratio: [0.2]}}"),
       ":4:58", "given twice"},
      {"GridEmpty", method("{name: q, selector: quest, grid: {}}"), ":4:38", "grid is empty"},
      {"GridEmptyList", method("{name: q, selector: quest, grid: {budget.ratio: []}}"), ":4:53", "is empty"},
      {"GridScalar", method("{name: q, selector: quest, grid: {budget.ratio: 0.1}}"), ":4:53", "a list"},
      {"GridRepeats", method("{name: q, selector: quest, grid: {budget.ratio: [0.1, 0.1]}}"), ":4:59",
       "stands twice"},
      {"ZipUneven", method("{name: q, selector: quest, zip: {budget.ratio: [0.1, 0.2], k_min: [1]}}"),
       ":4:71", "as many"},
      {"WindowZero", method("{name: q, selector: quest, budget.ratio: 0.1, retro: {window: 0}}"), ":4:67",
       "out of range"},
      {"RetroOnEvictor", method("{name: s, selector: streaming, budget.ratio: 0.1, retro: {window: 2}}"),
       ":4:71", "streaming evicts"},
      {"UnknownBlock", with("repaets:\n\n  - 3"), ":4:1", "did you mean repeats"},
      {"TextOnTwoLines", with("repeats: \"a\\nb\""), ":4:10", "\"a\\x0ab\""},
      {"TextWithoutEnd", with("repeats: " + std::string(5000, 'x')), ":4:10", "xxx...'"},
      {"TaggedText", with("repeats: !!str 5"), ":4:10", "the text"},
      {"RepeatsTooMany", with("repeats: 1000001"), ":4:10", "1 to 1000000"},
      {"BatchTooLarge", with("batch: 65537"), ":4:8", "1 to 65536"},
      {"NullKey", with("~: 1"), ":4:1", "a key is nothing"},
      {"ListAsKey", with("? [a, b]\n: 1"), ":4:3", "a key is a list"},
      {"UndefinedAlias", with("repeats: *many"), ":4:10", "anchor"},
      {"AliasOfItself", "a: &a [*a]\n", ":1:4", "nested"},
      {"Brackets", std::string(100000, '['), ":1:", "nested"},
      {"Nul", with(std::string("repeats: ") + '\0'), ":5:1", "not YAML"},
      {"DefaultsUnused", with("defaults: {k_min: -1}"), ":4:19", "out of range"},
      {"DefaultsContradict", with("defaults: {budget: {tokens: 64, ratio: 0.1}}"), ":4:40", "contradicts"},
      {"DefaultsMinTokens", with("defaults: {budget: {tokens: 64, min_tokens: 1}}"), ":4:45", "contradicts"},
      {"NameOnTwoLines", method("{name: \"a\\nb\", selector: dense}"), ":4:12", "control character"},
      {"NameTooLong", method("{name: " + std::string(65, 'x') + ", selector: dense}"), ":4:12", "64"},
      {"NameWithEquals", method("{name: a=b, selector: dense}"), ":4:12", "'='"},
      {"ZipRepeats",
       method("{name: q, selector: quest, zip: {budget.ratio: [0.1, 0.2, 0.1], k_min: [1, 1, 1]}}"), ":4:63",
       "0.1, 1 stands twice"},
      {"GridSecondValue", method("{name: q, selector: quest, grid: {budget.ratio: [2, 0.1, 3]}}"), ":4:62",
       "3 is out of range"},
      {"TooManyPoints",
       method("{name: q, selector: quest, grid: {budget.tokens: " + numbers(101) +
              ", k_min: " + numbers(100) + "}}"),
       ":4:5", "10100 points"},
      {"ClosedLoopOnly",
       method("{name: q, selector: quest, budget.ratio: 0.1, retro: {window: 2, refresh: merge}}"), ":4:70",
       "retro.refresh concerns a model that decodes"},
      {"RetroIncomplete", method("{name: q, selector: quest, budget.ratio: 0.1, retro.query: original}"),
       ":4:5", "needs retro.window"},
      {"EmptyMap", method("{name: q, selector: quest, budget: {}}"), ":4:40", "empty map"},
      {"Deep",
       with("steps: {from: {a: {b: {c: {d: {e: {f: {g: {h: {i: {j: {k: {l: {m: {n: {o: {p: "
            "1}}}}}}}}}}}}}}}}}"),
       ":4:", "nested"},
  };
}

class BrokenConfiguration : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenConfiguration, IsRefusedWithItsPlaceAndWhatIsWrong) {
  const TempDir dir;
  try {
    load(dir, GetParam().yaml);
    FAIL() << "was accepted";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    std::string place = (dir / "c.yaml").string() + GetParam().place;
    if (!place.ends_with(':')) place += ": ";  // the whole column, not its first digits
    EXPECT_EQ(error.exit_status(), ExitStatus::usage);
    EXPECT_NE(message.find(place), std::string::npos) << message;
    EXPECT_NE(message.find(GetParam().fragment), std::string::npos) << message;
    std::istringstream lines(message);
    for (std::string line; std::getline(lines, line);)
      EXPECT_EQ(line.rfind((dir / "c.yaml").string() + ":", 0), 0u) << "a line without a place: " << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, BrokenConfiguration, ::testing::ValuesIn(broken_configurations()),
                         [](const auto& broken) { return broken.param.name; });

TEST(BrokenConfiguration, AllProblemsAreReportedAtOnce) {
  const TempDir dir;
  try {
    load(dir, with("repeats: 0\nbatch: x\ndevice: gpu"));
    FAIL();
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 2) << message;
  }
}

TEST(BrokenConfiguration, WhatConcernsManyMethodsIsSaidOnce) {
  const TempDir dir;
  try {
    load(dir,
         "version: 1\ntraces: a.h5\ndefaults: {page_size: 0}\n"
         "methods: [{name: a, selector: dense}, {name: b, selector: dense}]\n");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

TEST(BrokenConfiguration, WhatIsNoSmallFileIsRefusedUnread) {
  const TempDir dir;
  EXPECT_THROW(load_plan(dir / "none.yaml", test_catalog()), ConfigError);
  EXPECT_THROW(load_plan(dir.path(), test_catalog()), ConfigError);
  EXPECT_THROW(load_plan(dir / std::string(5000, 'x'), test_catalog()), ConfigError);
  std::ofstream(dir / "huge.yaml") << "";
  std::filesystem::resize_file(dir / "huge.yaml", std::uintmax_t{1} << 40);
  EXPECT_THROW(load_plan(dir / "huge.yaml", test_catalog()), ConfigError);
}

TEST(BrokenConfiguration, ManyAliasesAreNoBomb) {
  const TempDir dir;
  std::string yaml = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'j'; ++c) {
    yaml += fmt::format("{}: &{} [", c, c);
    for (int i = 0; i < 9; ++i) yaml += fmt::format("*{}{}", static_cast<char>(c - 1), i < 8 ? ", " : "]\n");
  }
  EXPECT_THROW(load(dir, yaml), ConfigError);
}

TEST(BrokenConfiguration, EveryGlobWithoutAMatchIsATraceError) {
  const TempDir dir;
  try {
    load(dir, "version: 1\ntraces: ['a*.h5', 'b?.h5']\nmethods: [{name: d, selector: dense}]\n");
    FAIL();
  } catch (const TraceError& error) {
    const std::string message = error.what(), file = (dir / "c.yaml").string();
    EXPECT_EQ(error.exit_status(), ExitStatus::trace);
    EXPECT_EQ(message.rfind(file + ":2:10: ", 0), 0u) << message;
    EXPECT_NE(message.find("\n" + file + ":2:19: "), std::string::npos) << message;
  }
}

TEST(BrokenOverride, NamesTheArgument) {
  const TempDir dir;
  for (const auto& [set, fragment] :
       std::vector<std::pair<std::string, std::string>>{{"repeats", "no path=value"},
                                                        {"=5", "no path=value"},
                                                        {"repeats=none", "integer"},
                                                        {"repets=5", "did you mean repeats"},
                                                        {"methods.nobody.k_min=5", "nothing that can be set"},
                                                        {"methods.e.k_min=5", "did you mean methods.d.k_min"},
                                                        {"defaults.page_sise=5", "did you mean page_size"},
                                                        {"defaults.page_size=0", "out of range"},
                                                        {"version=1", "nothing that can be set"},
                                                        {"methods.d.page_sise=5", "did you mean page_size"},
                                                        {"methods.d.page_size=0", "out of range"},
                                                        {"layers=[a", "not YAML"}}) {
    try {
      load(dir, with(""), {{set}, std::nullopt, std::nullopt});
      FAIL() << set << " was accepted";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("--set " + set), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(fragment), std::string::npos) << error.what();
    }
  }
}

TEST(BrokenOverride, AllAreReportedBesideWhatIsWrongInTheFile) {
  const TempDir dir;
  try {
    load(dir, with("batch: 0"),
         {{"repeats", "layers=[a", "steps.from=x", "repeats=1", "repeats=2"}, std::nullopt, std::nullopt});
    FAIL();
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 4) << message;
    for (const char* fragment : {"no path=value", "not YAML", "integer", "set twice", ":4:8: batch"})
      EXPECT_NE(message.find(fragment), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace hindsight::test
