// Points of several result files in one: as if one run had measured them.

#include "results/merge.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "result_case.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

namespace fs = std::filesystem;

fs::path write_points(const fs::path& file, const std::vector<PointResult>& points,
                      const Provenance& provenance = provenance_for_tests()) {
  ResultWriter writer(file, provenance, std::nullopt);
  writer.set_order(ids_of(points));
  for (const PointResult& point : points) writer.add(point);
  return file;
}

TEST(Merge, GivesWhatOneRunWouldHaveWritten) {
  const TempDir dir;
  const std::vector<PointResult> all{make_point(0), make_point(1), make_point(2, "other")};
  const fs::path whole = write_points(dir / "whole.h5", all);
  const fs::path first = write_points(dir / "a.h5", {all[0], all[1]});
  const fs::path second = write_points(dir / "b.h5", {all[1], all[2]});

  const Merged said = merge_results({first, second}, dir / "all.h5");
  EXPECT_EQ(said.points, 3);
  EXPECT_EQ(said.repeated, 1);
  const ResultReader expected(whole), merged(dir / "all.h5");
  ASSERT_EQ(merged.point_ids(), ids_of(all));
  for (const PointResult& written : all) {
    const PointResult a = expected.read(written.id, true), b = merged.read(written.id, true);
    EXPECT_EQ(a.parameters, b.parameters);
    EXPECT_EQ(a.protocol, b.protocol);
    ASSERT_EQ(a.series.size(), b.series.size());
    ASSERT_FALSE(a.series.empty());
    for (size_t i = 0; i < a.series.size(); ++i) {
      EXPECT_EQ(a.series[i].name, b.series[i].name);
      ASSERT_EQ(a.series[i].values.size(), b.series[i].values.size());
      for (size_t x = 0; x < a.series[i].values.size(); ++x)
        ASSERT_TRUE(a.series[i].values[x] == b.series[i].values[x] ||
                    (std::isnan(a.series[i].values[x]) && std::isnan(b.series[i].values[x])));
    }
    ASSERT_EQ(a.summary.size(), b.summary.size());
  }
  EXPECT_EQ(merged.provenance().resolved_yaml, provenance_for_tests().resolved_yaml);
}

TEST(Merge, SaysWhatAllFilesSayOfTheirRuns) {
  const TempDir dir;
  Provenance other = provenance_for_tests();
  other.host = "another";
  other.resolved_yaml = "version: 1\ntraces: [c.h5]\n";
  other.trace_digests.emplace_back("traces/e.h5", "d3");
  const fs::path a = write_points(dir / "a.h5", {make_point(0)});
  const fs::path b = write_points(dir / "b.h5", {make_point(1)}, other);
  merge_results({a, b}, dir / "all.h5");
  const ResultReader merged(dir / "all.h5");
  EXPECT_EQ(merged.provenance().host, "node; another");
  EXPECT_EQ(merged.provenance().device, "CPU, 2 threads");
  EXPECT_EQ(merged.provenance().resolved_yaml,
            "version: 1\ntraces: [a.h5]\n---\nversion: 1\ntraces: [c.h5]\n");
  EXPECT_EQ(merged.provenance().trace_digests.size(), 3u);

  // Merged once more, it says nothing twice.
  merge_results({dir / "all.h5", b}, dir / "again.h5");
  const ResultReader again(dir / "again.h5");
  EXPECT_EQ(again.provenance().host, "node; another");
  EXPECT_EQ(again.provenance().resolved_yaml, merged.provenance().resolved_yaml);
}

TEST(Merge, TakesTheFirstOfAPointThatSeveralFilesHold) {
  const TempDir dir;
  PointResult other = make_point(0);
  for (double& value : other.series.front().values) value += 1;
  const fs::path a = write_points(dir / "a.h5", {make_point(0)});
  const fs::path b = write_points(dir / "b.h5", {other});
  EXPECT_EQ(merge_results({b, a}, dir / "all.h5").repeated, 1);
  const auto sum_of_first = [&](const fs::path& file) {
    double sum = 0;
    for (const Series& series : ResultReader(file).read(other.id, true).series)
      if (series.name == other.series.front().name)
        for (const double value : series.values) sum += std::isnan(value) ? 0 : value;
    return sum;
  };
  EXPECT_EQ(sum_of_first(dir / "all.h5"), sum_of_first(b));
  EXPECT_NE(sum_of_first(dir / "all.h5"), sum_of_first(a));
}

TEST(Merge, EqualGpusAreTheSame) {
  const TempDir dir;
  PointResult on_first = make_point(0), on_second = make_point(1), on_another = make_point(2);
  on_first.protocol.device = "cuda:0 NVIDIA H200";
  on_second.protocol.device = "cuda:1 NVIDIA H200";
  on_another.protocol.device = "cuda:0 NVIDIA A100";
  const fs::path a = write_points(dir / "a.h5", {on_first});
  const fs::path b = write_points(dir / "b.h5", {on_second});
  const fs::path c = write_points(dir / "c.h5", {on_another});
  EXPECT_EQ(merge_results({a, b}, dir / "all.h5").points, 2);
  EXPECT_THROW(merge_results({a, c}, dir / "other.h5"), ConfigError);
}

TEST(Merge, RefusesPointsThatWereMeasuredOtherwise) {
  const TempDir dir;
  PointResult otherwise = make_point(1);
  otherwise.protocol.repeats = 7;
  const fs::path a = write_points(dir / "a.h5", {make_point(0)});
  const fs::path b = write_points(dir / "b.h5", {otherwise});
  EXPECT_THROW(merge_results({a, b}, dir / "all.h5"), ConfigError);
  EXPECT_FALSE(fs::exists(dir / "all.h5"));
}

TEST(Merge, NeverReplacesAFileThatItReads) {
  const TempDir dir;
  const fs::path a = write_points(dir / "a.h5", {make_point(0)});
  EXPECT_THROW(merge_results({a}, a), EnvironmentError);
  EXPECT_THROW(merge_results({a, dir / "absent.h5"}, dir / "all.h5"), EnvironmentError);
  EXPECT_EQ(ResultReader(a).point_ids().size(), 1u);
}

}  // namespace
}  // namespace hindsight::test
