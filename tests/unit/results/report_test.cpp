// What report and compare say of a file.

#include "results/report.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "result_case.h"
#include "results/comparison.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

class Report : public ::testing::Test {
 protected:
  ResultReader write(const std::vector<PointResult>& points, const std::string& name = "r.h5") {
    ResultWriter writer(dir_ / name, provenance_for_tests(), std::nullopt);
    writer.set_order(ids_of(points));
    for (const PointResult& point : points) writer.add(point);
    return ResultReader(dir_ / name);
  }

  const TempDir dir_;
};

Cell cell(const Table& table, size_t row, const std::string& column) {
  const auto found = std::find(table.columns().begin(), table.columns().end(), column);
  if (found == table.columns().end()) throw std::out_of_range("no column " + column);
  return table.rows().at(row)[static_cast<size_t>(found - table.columns().begin())];
}

double number(const Table& table, size_t row, const std::string& column) {
  return std::get<double>(cell(table, row, column));
}

using Names = std::vector<std::string>;

TEST_F(Report, OfPointsHasEveryColumnAndUndefinedWhereAPointLacksAParameter) {
  PointResult dense = make_point(0, "dense");
  dense.parameters = {};
  const auto [table, n_keys] = report(write({dense, make_point(1)}), ReportBy::point);
  EXPECT_EQ(table.columns(), (Names{"point", "trace", "name", "selector", "budget.ratio", "gqa.unit",
                                    "retro.window", "rel_l2_final_mean", "page_overlap_mean"}));
  EXPECT_EQ(n_keys, 7u);
  EXPECT_TRUE(is_undefined(cell(table, 0, "retro.window"))) << "not 0, which is how the file stores it";
  EXPECT_TRUE(is_undefined(cell(table, 0, "gqa.unit")));
  EXPECT_EQ(cell(table, 1, "retro.window"), Cell(int64_t{2}));
  EXPECT_EQ(number(table, 1, "rel_l2_final_mean"), 0.25);
}

TEST_F(Report, ForPeopleHasTheKeysThatDifferAndTheKeyMetrics) {
  std::vector<PointResult> points = make_points(2);
  for (PointResult& point : points) point.summary.emplace_back("flops_per_step", 5.0);
  const KeyedTable full = report(write(points), ReportBy::point);
  // The only window, unit and trace say nothing; page_overlap_mean is undefined everywhere.
  EXPECT_EQ(for_people(full).columns(), (Names{"name", "budget.ratio", "rel_l2_final_mean"}));
  EXPECT_EQ(for_people(full, "flops_per_step").columns(),
            (Names{"name", "budget.ratio", "rel_l2_final_mean", "flops_per_step"}));
  EXPECT_EQ(for_people(full, "gqa.unit").columns(),
            (Names{"name", "budget.ratio", "gqa.unit", "rel_l2_final_mean"}));
}

TEST_F(Report, ForPeopleNamesThePointWhereNothingElseDoes) {
  std::vector<PointResult> points = make_points(2);
  points[1].parameters = points[0].parameters;  // the same method over other steps
  EXPECT_EQ(for_people(report(write(points), ReportBy::point)).columns(),
            (Names{"point", "name", "rel_l2_final_mean"}));
}

TEST_F(Report, ForPeopleCallsTracesByTheEndsOfTheirPathsThatDiffer) {
  std::vector<PointResult> points = make_points(4);
  const Names paths{"/far/p/code.h5", "../p/code.h5", "q/code.h5", "q/text.h5"};
  for (size_t i = 0; i < points.size(); ++i) points[i].trace = paths[i];
  const KeyedTable full = report(write(points), ReportBy::point);
  const Table shown = for_people(full);
  const Names called{"/far/p/code.h5", "../p/code.h5", "q/code.h5", "text.h5"};
  for (size_t i = 0; i < points.size(); ++i) {
    EXPECT_EQ(cell(full.table, i, "trace"), Cell(paths[i]));
    EXPECT_EQ(cell(shown, i, "trace"), Cell(called[i]));
  }
}

TEST_F(Report, OfSeveralTracesIsOfMethodsWithIntervals) {
  std::vector<PointResult> points = make_points(2);
  EXPECT_EQ(default_grouping(write(points)), ReportBy::point);
  points[1].parameters = points[0].parameters;
  points[1].trace = "traces/c.h5";
  points[1].trace_digest = "d2";
  const ResultReader results = write(points);
  EXPECT_EQ(default_grouping(results), ReportBy::method);

  const KeyedTable full = report(results, ReportBy::method);
  ASSERT_EQ(full.table.rows().size(), 1u);
  EXPECT_EQ(cell(full.table, 0, "n_traces"), Cell(int64_t{2}));
  EXPECT_EQ(number(full.table, 0, "rel_l2_final_mean"), 0.375);
  // s = 0.25 / sqrt(2), n = 2, t(0.975, 1) = 12.706.
  EXPECT_NEAR(number(full.table, 0, "rel_l2_final_mean_ci95"), 12.706 * 0.125, 1e-12);
  const Table shown = for_people(full);
  EXPECT_EQ(shown.columns(), (Names{"name", "n_traces", "rel_l2_final_mean"}));
  EXPECT_EQ(cell(shown, 0, "rel_l2_final_mean"), Cell(std::string("0.375±2")));
}

/// Two points of the same method on two traces.
std::vector<PointResult> points_of_two_traces() {
  std::vector<PointResult> points = make_points(2);
  points[1].parameters = points[0].parameters;
  points[1].trace_digest = "d2";
  return points;
}

TEST_F(Report, OfMethodsDoesNotMixStepsOrLayers) {
  const std::vector<PointResult> whole = points_of_two_traces();
  std::vector<PointResult> points = whole;
  for (PointResult point : whole) {
    point.id += "-other-steps";
    point.steps = "0-end";
    points.push_back(point);
    point.id += "-other-layers";
    point.coordinates[1] = {"layer", std::vector<int64_t>{2, 3}};
    points.push_back(point);
  }
  const KeyedTable full = report(write(points), ReportBy::method);
  const Names steps{"3-42", "0-end", "0-end"}, layers{"2 5", "2 5", "2 3"};
  ASSERT_EQ(full.table.rows().size(), steps.size());
  for (size_t row = 0; row < steps.size(); ++row) {
    EXPECT_EQ(cell(full.table, row, "steps"), Cell(steps[row]));
    EXPECT_EQ(cell(full.table, row, "layers"), Cell(layers[row]));
    EXPECT_EQ(cell(full.table, row, "n_traces"), Cell(int64_t{2}));
    EXPECT_NEAR(number(full.table, row, "rel_l2_final_mean_ci95"), 12.706 * 0.125, 1e-12);
  }
  EXPECT_EQ(for_people(full).columns(), (Names{"name", "steps", "layers", "n_traces", "rel_l2_final_mean"}));
}

TEST_F(Report, OfMethodsCountsATraceOnce) {
  std::vector<PointResult> points = points_of_two_traces();
  points.push_back(points[0]);
  points[2].id += "-again";  // dense layers that were asked for too make another id
  points[2].summary = {{"rel_l2_final_mean", 9.0}};
  const Table table = report(write(points), ReportBy::method).table;
  ASSERT_EQ(table.rows().size(), 1u);
  EXPECT_EQ(cell(table, 0, "n_traces"), Cell(int64_t{2}));
  EXPECT_EQ(number(table, 0, "rel_l2_final_mean"), 0.375);
}

TEST_F(Report, LatenciesOfBatchesHaveNoInterval) {
  std::vector<PointResult> points = points_of_two_traces();
  for (PointResult& point : points) point.summary.emplace_back("latency_us_total_p50", 3.0);
  EXPECT_EQ(number(report(write(points), ReportBy::method).table, 0, "latency_us_total_p50_ci95"), 0.0);
  for (PointResult& point : points) point.protocol.batch = 2;
  const Table table = report(write(points), ReportBy::method).table;
  EXPECT_EQ(number(table, 0, "latency_us_total_p50"), 3.0);
  EXPECT_TRUE(is_undefined(cell(table, 0, "latency_us_total_p50_ci95")));
  EXPECT_FALSE(is_undefined(cell(table, 0, "rel_l2_final_mean_ci95")));
}

/// A point of 40 steps (3..42), 2 layers, 4 heads in 2 units, whose values say where they stand.
PointResult point_of_places() {
  PointResult point = make_point(0);
  point.coordinates.push_back({"latency_step", std::vector<int64_t>{4, 42}});
  point.coordinates.push_back({"latency_repeat", std::vector<int64_t>{0, 1, 2}});
  point.series.clear();
  Series heads{"rel_l2_final", {"step", "layer", "q_head"}, {40, 2, 4}, {}, false, "1", ""};
  Series units{"page_overlap", {"step", "layer", "unit"}, {40, 2, 2}, {}, false, "1", ""};
  for (int step = 0; step < 40; ++step)
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 4; ++head) heads.values.push_back(step + 100 * layer + 1000 * head);
      for (int unit = 0; unit < 2; ++unit) units.values.push_back(step == 0 ? nan : 10 * layer + unit);
    }
  Series histogram{
      "late_rank_histogram", {"layer", "late_rank_bin"}, {2, 3}, {1, 2, 3, 4, 5, 6}, true, "pages", ""};
  Series latency{
      "latency_us_total", {"latency_step", "latency_repeat"}, {2, 3}, {9, 7, 500, 3, 2, 1}, false, "us", ""};
  point.series = {heads, units, histogram, latency};
  return point;
}

TEST_F(Report, ByLayerIsTheMeanOverStepsAndHeads) {
  const Table table = report(write({point_of_places()}), ReportBy::layer).table;
  ASSERT_EQ(table.rows().size(), 2u);
  EXPECT_EQ(cell(table, 0, "layer"), Cell(int64_t{2}));
  EXPECT_EQ(cell(table, 1, "layer"), Cell(int64_t{5}));
  EXPECT_DOUBLE_EQ(number(table, 0, "rel_l2_final_mean"), 19.5 + 1500);
  EXPECT_DOUBLE_EQ(number(table, 1, "rel_l2_final_mean"), 19.5 + 100 + 1500);
  EXPECT_DOUBLE_EQ(number(table, 1, "page_overlap_mean"), 10.5) << "undefined values are left out";
  EXPECT_THROW(cell(table, 0, "late_rank_histogram_mean"), std::out_of_range) << "counts have no mean";
}

TEST_F(Report, ByHeadGivesAHeadTheValuesOfItsUnit) {
  const Table table = report(write({point_of_places()}), ReportBy::head).table;
  ASSERT_EQ(table.rows().size(), 4u);
  for (size_t head = 0; head < 4; ++head) {
    EXPECT_EQ(cell(table, head, "q_head"), Cell(static_cast<int64_t>(head)));
    EXPECT_DOUBLE_EQ(number(table, head, "rel_l2_final_mean"),
                     19.5 + 50 + 1000.0 * static_cast<double>(head));
    EXPECT_DOUBLE_EQ(number(table, head, "page_overlap_mean"), head < 2 ? 5.0 : 6.0);
  }
}

TEST_F(Report, ByStepHasAtMostSixteenRangesThatCoverAllSteps) {
  const Table table = report(write({point_of_places()}), ReportBy::step).table;
  ASSERT_EQ(table.rows().size(), 14u);  // 40 steps, 3 a range
  int64_t next = 3;
  for (size_t row = 0; row < table.rows().size(); ++row) {
    const int64_t from = std::get<int64_t>(cell(table, row, "step_from")),
                  to = std::get<int64_t>(cell(table, row, "step_to"));
    EXPECT_EQ(from, next);
    next = to + 1;
    const double middle = static_cast<double>(from + to) / 2 - 3;
    EXPECT_DOUBLE_EQ(number(table, row, "rel_l2_final_mean"), middle + 50 + 1500);
    if (row == 0)
      EXPECT_EQ(number(table, row, "latency_us_total_p50"), 9) << "a median, and of step 4 alone";
    else if (row == 13)
      EXPECT_EQ(number(table, row, "latency_us_total_p50"), 2);
    else
      EXPECT_TRUE(is_undefined(cell(table, row, "latency_us_total_p50")));
  }
  EXPECT_EQ(next, 43);
}

TEST_F(Report, OfADimensionThatNothingHasIsRefused) {
  PointResult point = make_point(0);
  std::erase_if(point.series, [](const Series& series) { return series.name != "latency_us_total"; });
  EXPECT_THROW(report(write({point}), ReportBy::layer), ConfigError);
}

TEST_F(Report, SortsByAnyColumnAndSuggestsTheNearest) {
  KeyedTable table = report(write(make_points(3)), ReportBy::point);
  sort_report(table, "rel_l2_final_mean");
  EXPECT_EQ(cell(table.table, 0, "point"), Cell(make_point(2).id));
  try {
    sort_report(table, "rel_l2_finl_mean");
    FAIL() << "an unknown column was accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("rel_l2_final_mean"), std::string::npos) << error.what();
  }
}

TEST_F(Report, ComparisonPairsPointsByWhatTheyAreNotByTheirIds) {
  std::vector<PointResult> points_a = make_points(3), points_b = make_points(4);
  points_b.erase(points_b.begin());
  points_b[0].id = "other-steps";
  points_b[0].summary = {{"rel_l2_final_mean", 0.75}, {"only_in_b", 1.0}};
  points_b[1].trace_digest = "d2";  // another trace of the same name
  const ResultReader a = write(points_a, "a.h5"), b = write(points_b, "b.h5");
  const Comparison comparison = compare(a, b);
  const Table& table = comparison.table.table;
  ASSERT_EQ(table.rows().size(), 2u);
  EXPECT_EQ(cell(table, 0, "point"), Cell(points_a[1].id));
  EXPECT_EQ(cell(table, 0, "metric"), Cell(std::string("rel_l2_final_mean")));
  EXPECT_EQ(number(table, 0, "a"), 0.25);
  EXPECT_EQ(number(table, 0, "b"), 0.75);
  EXPECT_EQ(number(table, 0, "difference"), 0.5);
  EXPECT_EQ(number(table, 0, "ratio"), 3.0);
  EXPECT_EQ(cell(table, 1, "metric"), Cell(std::string("only_in_b")));
  EXPECT_TRUE(is_undefined(cell(table, 1, "a")));
  EXPECT_TRUE(is_undefined(cell(table, 1, "difference")));
  EXPECT_EQ(comparison.n_other_range, 1);

  ASSERT_EQ(comparison.unmatched.size(), 4u);
  EXPECT_NE(comparison.unmatched[0].find("a.h5: point " + points_a[0].id), std::string::npos);
  EXPECT_NE(comparison.unmatched[1].find("a.h5: point " + points_a[2].id), std::string::npos);
  EXPECT_NE(comparison.unmatched[2].find("b.h5: point " + points_b[1].id), std::string::npos);
  EXPECT_NE(comparison.unmatched[3].find("b.h5: point " + points_b[2].id), std::string::npos);

  EXPECT_EQ(for_people(comparison).columns(), (Names{"name", "metric", "a", "b", "difference", "ratio"}));
  EXPECT_EQ(for_people(comparison).rows().size(), 1u) << "only the key metrics";
}

TEST_F(Report, RatioToNothingIsUndefined) {
  PointResult point = make_point(0);
  point.summary = {{"rel_l2_final_mean", 0.0}};
  const ResultReader a = write({point}, "a.h5"), b = write({point}, "b.h5");
  const Table table = compare(a, b).table.table;
  EXPECT_EQ(number(table, 0, "difference"), 0.0);
  EXPECT_TRUE(is_undefined(cell(table, 0, "ratio")));
}

TEST_F(Report, APointOfTheSameIdIsPreferredAmongTheSame) {
  std::vector<PointResult> points = make_points(2);
  points[1].parameters = points[0].parameters;
  const ResultReader a = write(points, "a.h5");
  std::swap(points[0], points[1]);
  const ResultReader b = write(points, "b.h5");
  const Comparison comparison = compare(a, b);
  EXPECT_EQ(comparison.n_other_range, 0);
  for (size_t row = 0; row < 2; ++row) EXPECT_EQ(number(comparison.table.table, row, "difference"), 0.0);
}

}  // namespace
}  // namespace hindsight::test
