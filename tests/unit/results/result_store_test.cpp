// The result file: what is written is read back, whole at any moment, in the order of the sweep.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "core/error.h"
#include "result_case.h"
#include "results/protocol.h"
#include "results/summary_table.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

namespace fs = std::filesystem;

fs::path write_all_points(const fs::path& file, const std::vector<PointResult>& points) {
  ResultWriter writer(file, provenance_for_tests(), std::nullopt);
  writer.set_order(ids_of(points));
  for (const PointResult& point : points) writer.add(point);
  return file;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(ResultStore, GivesBackWhatWasWritten) {
  const TempDir dir;
  const std::vector<PointResult> points{make_point(0), make_point(1, "other")};
  const ResultReader reader(write_all_points(dir / "r.h5", points));

  EXPECT_EQ(reader.provenance().resolved_yaml, "version: 1\ntraces: [a.h5]\n");
  EXPECT_EQ(reader.provenance().program_version, "0.1.0");
  EXPECT_EQ(reader.provenance().git_revision, "abc");
  EXPECT_EQ(reader.provenance().host, "node");
  EXPECT_EQ(reader.provenance().device, "CPU, 2 threads");
  EXPECT_EQ(reader.provenance().driver, "");
  EXPECT_EQ(reader.provenance().date, "2026-01-01T00:00:00Z");
  EXPECT_EQ(reader.provenance().trace_digests, provenance_for_tests().trace_digests);
  ASSERT_EQ(reader.point_ids(), ids_of(points));

  for (const PointResult& written : points) {
    const PointResult read = reader.read(written.id, true);
    EXPECT_EQ(read.name, written.name);
    EXPECT_EQ(read.selector, written.selector);
    EXPECT_EQ(read.trace, written.trace);
    EXPECT_EQ(read.trace_digest, written.trace_digest);
    EXPECT_EQ(read.parameters, written.parameters);
    EXPECT_EQ(read.steps, written.steps);
    EXPECT_EQ(read.protocol, written.protocol);
    ASSERT_EQ(read.summary.size(), 2u);
    EXPECT_EQ(read.summary[0], written.summary[0]);
    EXPECT_EQ(read.summary[1].first, "page_overlap_mean");
    EXPECT_TRUE(std::isnan(read.summary[1].second));
    ASSERT_EQ(read.coordinates.size(), written.coordinates.size());
    for (const Coordinate& coordinate : written.coordinates) {
      const auto found = std::find_if(read.coordinates.begin(), read.coordinates.end(),
                                      [&](const Coordinate& c) { return c.name == coordinate.name; });
      ASSERT_NE(found, read.coordinates.end()) << coordinate.name;
      EXPECT_EQ(found->values, coordinate.values) << coordinate.name;
    }
    ASSERT_EQ(read.series.size(), written.series.size());
    for (const Series& series : written.series) {
      const auto found = std::find_if(read.series.begin(), read.series.end(),
                                      [&](const Series& s) { return s.name == series.name; });
      ASSERT_NE(found, read.series.end()) << series.name;
      EXPECT_EQ(found->dimensions, series.dimensions);
      EXPECT_EQ(found->shape, series.shape);
      EXPECT_EQ(found->integral, series.integral);
      EXPECT_EQ(found->unit, series.unit);
      EXPECT_EQ(found->description, series.description);
      ASSERT_EQ(found->values.size(), series.values.size());
      for (size_t i = 0; i < series.values.size(); ++i)
        if (std::isnan(series.values[i]))
          EXPECT_TRUE(std::isnan(found->values[i])) << series.name << " " << i;
        else
          EXPECT_EQ(found->values[i], series.values[i]) << series.name << " " << i;
    }
  }
  EXPECT_TRUE(reader.read(points[0].id, false).series.front().values.empty());
  EXPECT_NE(message_of([&] { reader.read("nowhere", true); }).find("nowhere"), std::string::npos);
}

TEST(ResultStore, SummaryHasAColumnPerParameterAndMetricOfAnyPoint) {
  const TempDir dir;
  PointResult dense = make_point(0, "dense");
  dense.parameters = {};
  dense.parameters.set("alone", 0.75);  // a real without a dot in its name, which the other point lacks
  dense.summary = {{"flops_per_step", 7.0}};
  const PointResult retro = make_point(1);
  write_all_points(dir / "r.h5", {dense, retro});

  const h5::Id file = h5::open_file(dir / "r.h5");
  const auto [table, n_keys] = read_table(file, "summary");
  EXPECT_EQ(
      table.columns(),
      (std::vector<std::string>{"point", "trace", "name", "selector", "alone", "budget.ratio", "gqa.unit",
                                "retro.window", "flops_per_step", "rel_l2_final_mean", "page_overlap_mean"}));
  EXPECT_EQ(n_keys, 8u);
  const auto& row = table.rows().at(0);
  EXPECT_TRUE(is_undefined(row[5]));
  EXPECT_EQ(row[6], Cell(std::string()));
  EXPECT_EQ(row[7], Cell(int64_t{0}));
  EXPECT_TRUE(is_undefined(row[9]));
  EXPECT_EQ(table.rows().at(1)[7], Cell(int64_t{2}));

  // Parameters of other points are no metrics of this one.
  const PointResult read = ResultReader(dir / "r.h5").read(retro.id, false);
  for (const auto& [name, value] : read.summary) EXPECT_NE(name, "alone");
  EXPECT_EQ(read.parameters, retro.parameters);
}

TEST(ResultStore, SeveralTracesGetMeansWithIntervals) {
  const TempDir dir;
  std::vector<PointResult> points;
  const std::vector<double> values{0.1, 0.4, 0.7};
  for (int trace = 0; trace < 3; ++trace) {
    points.push_back(make_point(0));
    points.back().id = "p" + std::to_string(trace);
    points.back().trace_digest = "d" + std::to_string(trace);
    points.back().summary = {{"x", values[static_cast<size_t>(trace)]}, {"y", trace == 0 ? 5.0 : nan}};
  }
  write_all_points(dir / "one.h5", {points[0]});
  EXPECT_EQ(h5::link_of(h5::open_file(dir / "one.h5"), "summary_over_traces"), h5::Link::none);

  write_all_points(dir / "three.h5", points);
  const auto table = read_table(h5::open_file(dir / "three.h5"), "summary_over_traces").table;
  ASSERT_EQ(table.rows().size(), 1u);
  const auto at = [&](const std::string& column) {
    const auto found = std::find(table.columns().begin(), table.columns().end(), column);
    return table.rows()[0].at(static_cast<size_t>(found - table.columns().begin()));
  };
  EXPECT_EQ(at("n_traces"), Cell(int64_t{3}));
  EXPECT_NEAR(std::get<double>(at("x")), 0.4, 1e-12);
  // s = 0.3, n = 3, t(0.975, 2) = 4.303.
  EXPECT_NEAR(std::get<double>(at("x_ci95")), 4.303 * 0.3 / std::sqrt(3.0), 1e-12);
  EXPECT_EQ(at("y"), Cell(5.0));
  EXPECT_TRUE(is_undefined(at("y_ci95")));
}

TEST(ResultWriter, TheFileAppearsWithTheFirstPointAndNothingElseStays) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(2);
  const fs::path folder = dir / "a/b";
  ResultWriter writer(folder / "r.h5", provenance_for_tests(), std::nullopt);
  EXPECT_TRUE(files_in(folder).empty()) << "the folder is made, the file not yet";
  writer.add(points[0]);
  EXPECT_EQ(files_in(folder), std::set<std::string>{"r.h5"});
  EXPECT_EQ(ResultReader(folder / "r.h5").point_ids().size(), 1u);
  EXPECT_TRUE(writer.has(points[0].id));
  EXPECT_FALSE(writer.has(points[1].id));
  writer.add(points[1]);
  EXPECT_EQ(files_in(folder), std::set<std::string>{"r.h5"});
  EXPECT_EQ(ResultReader(folder / "r.h5").point_ids().size(), 2u);
}

TEST(ResultWriter, AReaderKeepsWhatItOpened) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(2);
  ResultWriter writer(dir / "r.h5", provenance_for_tests(), std::nullopt);
  writer.add(points[0]);
  const ResultReader reader(dir / "r.h5");
  writer.add(points[1]);
  EXPECT_EQ(reader.read(points[0].id, true).series.size(), points[0].series.size());
}

TEST(ResultWriter, PointsStandInTheOrderOfTheSweepWhateverTheOrderOfAdding) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(4);
  write_all_points(dir / "straight.h5", points);
  ResultWriter writer(dir / "crooked.h5", provenance_for_tests(), std::nullopt);
  writer.set_order(ids_of(points));
  for (const int number : {2, 0, 3, 1}) writer.add(points[static_cast<size_t>(number)]);
  EXPECT_EQ(ResultReader(dir / "crooked.h5").point_ids(), ids_of(points));
  EXPECT_EQ(contents_of(dir / "crooked.h5"), contents_of(dir / "straight.h5"));
}

TEST(ResultWriter, TheSameInputGivesTheSameBytes) {
  const TempDir dir;
  const auto bytes_of = [&](const std::string& name) {
    std::ifstream in(write_all_points(dir / name, make_points(3)), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string once = bytes_of("a.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 would stamp whole seconds
  EXPECT_TRUE(once == bytes_of("b.h5"));
}

TEST(ResultWriter, SpaceOfReplacedSummariesIsUsedAgain) {
  const TempDir dir;
  ResultWriter writer(dir / "r.h5", provenance_for_tests(), std::nullopt);
  std::mt19937 random(1);
  std::vector<double> sizes;
  for (PointResult point : make_points(120)) {
    // As much as a real point holds, and nothing that deflating makes small.
    point.coordinates.push_back({"sample", std::vector<int64_t>(8192)});
    Series noise{"noise", {"sample"}, {8192}, std::vector<double>(8192), false, "1", "noise"};
    for (double& value : noise.values) value = std::generate_canonical<double, 53>(random);
    point.series.push_back(std::move(noise));
    writer.add(point);
    sizes.push_back(static_cast<double>(fs::file_size(dir / "r.h5")));
  }
  // Were they left behind, each point would add a row more than the one before.
  EXPECT_LT(sizes[119] - sizes[79], 1.01 * (sizes[79] - sizes[39]));
}

TEST(ResultWriter, ResumedEqualsUninterrupted) {
  const std::vector<PointResult> points = make_points(5);
  for (const size_t interrupted_after : {1u, 3u, 5u}) {
    const TempDir dir;
    write_all_points(dir / "whole.h5", points);
    {
      ResultWriter writer(dir / "r.h5", provenance_for_tests(), std::nullopt);
      writer.set_order(ids_of(points));
      for (size_t i = 0; i < interrupted_after; ++i) writer.add(points[i]);
    }
    ResultWriter writer(dir / "r.h5", provenance_for_tests(), protocol_for_tests());
    writer.set_order(ids_of(points));
    size_t added = 0;
    for (const PointResult& point : points)
      if (!writer.has(point.id)) {
        writer.add(point);
        ++added;
      }
    EXPECT_EQ(added, points.size() - interrupted_after);
    EXPECT_EQ(contents_of(dir / "r.h5"), contents_of(dir / "whole.h5"));
  }
}

TEST(ResultWriter, ResumeKeepsPointsAndTracesOfAnEarlierSweepBehindItsOwn) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(2);
  write_all_points(dir / "r.h5", {points[0]});
  Provenance provenance = provenance_for_tests();
  provenance.trace_digests = {{"new.h5", "d9"}};
  ResultWriter writer(dir / "r.h5", provenance, protocol_for_tests());
  writer.set_order({points[1].id});
  writer.add(points[1]);
  const ResultReader reader(dir / "r.h5");
  EXPECT_EQ(reader.point_ids(), (std::vector<std::string>{points[1].id, points[0].id}));
  EXPECT_EQ(reader.provenance().trace_digests.size(), 3u);
}

TEST(ResultWriter, AFileMeasuredOtherwiseIsNotResumed) {
  const TempDir dir;
  write_all_points(dir / "r.h5", make_points(2));
  const auto before = contents_of(dir / "r.h5");
  const Protocol held = protocol_for_tests();
  std::vector<Protocol> others(6, held);
  others[0].latency = false;
  others[1].fidelity = false;
  others[2].repeats = 4;
  others[3].batch = 2;
  others[4].device = "CPU, 4 threads";
  others[5].device = "cuda:0 NVIDIA H200";
  for (const Protocol& other : others) {
    const auto resume = [&] { ResultWriter(dir / "r.h5", provenance_for_tests(), other); };
    EXPECT_THROW(resume(), ConfigError) << described(other);
    const std::string message = message_of(resume);
    for (const std::string& said :
         {(dir / "r.h5").string(), described(held), described(other), std::string("another output")})
      EXPECT_NE(message.find(said), std::string::npos) << message;
  }
  EXPECT_EQ(contents_of(dir / "r.h5"), before);
}

TEST(ResultWriter, FidelityIsResumedWithAnotherNumberOfThreadsButNotOnAnotherDevice) {
  const TempDir dir;
  std::vector<PointResult> points = make_points(1);
  points[0].protocol = {true, false, 0, 0, "CPU, 2 threads"};
  write_all_points(dir / "r.h5", points);
  const auto resume_on = [&](const std::string& device) {
    ResultWriter(dir / "r.h5", provenance_for_tests(), Protocol{true, false, 0, 0, device});
  };
  EXPECT_NO_THROW(resume_on("CPU, 1 thread"));
  EXPECT_THROW(resume_on("cuda:0 NVIDIA H200"), ConfigError);
}

TEST(ResultWriter, WithoutResumeAnOldResultGivesWayWithTheFirstPoint) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(2);
  write_all_points(dir / "r.h5", {points[0]});
  ResultWriter writer(dir / "r.h5", provenance_for_tests(), std::nullopt);
  EXPECT_EQ(ResultReader(dir / "r.h5").point_ids(), std::vector<std::string>{points[0].id});
  EXPECT_FALSE(writer.has(points[0].id));
  writer.add(points[1]);
  EXPECT_EQ(ResultReader(dir / "r.h5").point_ids(), std::vector<std::string>{points[1].id});
}

TEST(ResultWriter, AFileThatIsNoResultIsNeverReplaced) {
  const TempDir dir;
  std::ofstream(dir / "notes.h5") << "precious";
  { const h5::Id other = h5::create_file(dir / "trace.h5"); }
  fs::create_directory(dir / "folder.h5");
  for (const char* name : {"notes.h5", "trace.h5", "folder.h5"})
    for (const std::optional<Protocol>& resume :
         {std::optional<Protocol>(), std::optional(protocol_for_tests())}) {
      EXPECT_THROW(ResultWriter(dir / name, provenance_for_tests(), resume), EnvironmentError);
      EXPECT_NE(message_of([&] { ResultWriter(dir / name, provenance_for_tests(), resume); }).find(name),
                std::string::npos);
    }
  std::string text;
  std::ifstream(dir / "notes.h5") >> text;
  EXPECT_EQ(text, "precious");
}

TEST(ResultWriter, AnotherVersionIsNotResumed) {
  const TempDir dir;
  write_all_points(dir / "r.h5", make_points(1));
  h5::write_integer(h5::open_file_to_change(dir / "r.h5"), "format_version", 2);
  EXPECT_THROW(ResultWriter(dir / "r.h5", provenance_for_tests(), protocol_for_tests()), ConfigError);
  EXPECT_THROW(ResultReader(dir / "r.h5"), ConfigError);
}

TEST(ResultWriter, AnOutputThatCannotBeWrittenIsFoundAtOnce) {
  const TempDir dir;
  std::ofstream(dir / "file") << "no folder";
  EXPECT_THROW(ResultWriter(dir / "file/r.h5", provenance_for_tests(), std::nullopt), EnvironmentError);
  EXPECT_THROW(ResultWriter(dir / std::string(300, 'x'), provenance_for_tests(), std::nullopt),
               EnvironmentError);
  EXPECT_THROW(ResultWriter("/proc/r.h5", provenance_for_tests(), std::nullopt), EnvironmentError);
  EXPECT_EQ(files_in(dir.path()), std::set<std::string>{"file"});
  if (geteuid() == 0) return;  // who may do anything finds every folder writable
  fs::create_directory(dir / "closed");
  ASSERT_EQ(chmod((dir / "closed").c_str(), 0555), 0);
  EXPECT_THROW(ResultWriter(dir / "closed/r.h5", provenance_for_tests(), std::nullopt), EnvironmentError);
}

TEST(ResultWriter, AFailedAddLeavesTheFileAsItWas) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(2);
  ResultWriter writer(dir / "r.h5", provenance_for_tests(), std::nullopt);
  writer.add(points[0]);
  PointResult broken = points[1];
  broken.series[0].dimensions[0] = "nowhere";
  EXPECT_THROW(writer.add(broken), EnvironmentError);
  EXPECT_FALSE(writer.has(broken.id));
  EXPECT_EQ(files_in(dir.path()), std::set<std::string>{"r.h5"});
  writer.add(points[1]);
  EXPECT_EQ(ResultReader(dir / "r.h5").point_ids(), ids_of(points));
}

TEST(ResultWriter, LeftoversOfKilledRunsAreRemovedThoseOfLivingOnesAreNot) {
  const TempDir dir;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const std::string dead = "r.h5.partial-" + std::to_string(child),
                    living = "r.h5.partial-" + std::to_string(getppid());
  for (const std::string& name : {dead, living, std::string("r.h5.partial-copy"), std::string("q.h5")})
    std::ofstream(dir / name) << "x";
  const ResultWriter writer(dir / "r.h5", provenance_for_tests(), std::nullopt);
  EXPECT_EQ(files_in(dir.path()), (std::set<std::string>{living, "r.h5.partial-copy", "q.h5"}));
}

TEST(ResultWriter, AKillAtAnyMomentLeavesAWholeFile) {
  const TempDir dir;
  const std::vector<PointResult> points = make_points(6);
  bool finished = false;
  for (int delay_us = 500; !finished; delay_us += 1500) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ResultWriter writer(dir / "r.h5", provenance_for_tests(), protocol_for_tests());
      writer.set_order(ids_of(points));
      for (const PointResult& point : points)
        if (!writer.has(point.id)) writer.add(point);
      _exit(0);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    finished = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!fs::exists(dir / "r.h5")) continue;
    const ResultReader reader(dir / "r.h5");
    for (const std::string& id : reader.point_ids()) EXPECT_EQ(reader.read(id, true).id, id);
    ASSERT_LT(delay_us, 3'000'000) << "the runs never get to their end";
  }
  EXPECT_EQ(files_in(dir.path()).count("r.h5"), 1u);
  write_all_points(dir / "whole.h5", points);
  EXPECT_EQ(contents_of(dir / "r.h5"), contents_of(dir / "whole.h5"));
}

/// The file as it was before points said how they were measured.
void forget_protocols(const fs::path& file) {
  const h5::Id points = h5::open_group(h5::open_file_to_change(file), "points");
  for (const std::string& id : h5::link_names(points)) {
    const h5::Id point = h5::open_group(points, id);
    for (const char* name : {"steps", "measurements", "device", "repeats", "batch"})
      if (h5::has_attribute(point, name)) h5::check(H5Adelete(point, name), "delete an attribute");
  }
}

TEST(ResultReader, OfOlderFilesTellsFromTheSeriesWhatWasMeasured) {
  const TempDir dir;
  std::vector<PointResult> points = make_points(2);
  points[0].coordinates.push_back({"latency_step", std::vector<int64_t>{1, 4}});  // of steps from 3 on
  points[0].coordinates.push_back({"latency_repeat", std::vector<int64_t>{0, 1, 2}});
  std::erase_if(points[1].series, [](const Series& s) { return s.name.starts_with("latency_"); });
  Provenance provenance = provenance_for_tests();
  provenance.resolved_yaml = "version: 1\nbatch: 4\n";
  {
    ResultWriter writer(dir / "r.h5", provenance, std::nullopt);
    for (const PointResult& point : points) writer.add(point);
  }
  forget_protocols(dir / "r.h5");

  const ResultReader reader(dir / "r.h5");
  const PointResult both = reader.read(points[0].id, false);
  EXPECT_EQ(both.protocol, (Protocol{true, true, 3, 4, "CPU, 2 threads"}));
  EXPECT_EQ(both.steps, "3-42");
  EXPECT_EQ(both.parameters, points[0].parameters);
  for (const Coordinate& coordinate : both.coordinates) {
    if (coordinate.name != "latency_step") continue;
    EXPECT_EQ(std::get<std::vector<int64_t>>(coordinate.values), (std::vector<int64_t>{4, 7}));
  }
  EXPECT_EQ(reader.read(points[1].id, false).protocol, (Protocol{true, false, 0, 0, "CPU, 2 threads"}));
}

TEST(ResultReader, SaysWhatIsWrongWithAFile) {
  const TempDir dir;
  EXPECT_THROW(ResultReader(dir / "absent.h5"), EnvironmentError);
  { const h5::Id other = h5::create_file(dir / "other.h5"); }
  EXPECT_THROW(ResultReader(dir / "other.h5"), EnvironmentError);
  write_all_points(dir / "cut.h5", make_points(2));
  fs::resize_file(dir / "cut.h5", fs::file_size(dir / "cut.h5") / 2);
  EXPECT_THROW(ResultReader(dir / "cut.h5"), EnvironmentError);
  write_all_points(dir / "bare.h5", make_points(1));
  h5::remove_link(h5::open_file_to_change(dir / "bare.h5"), "summary");
  EXPECT_NE(message_of([&] { ResultReader(dir / "bare.h5"); }).find("summary"), std::string::npos);
}

}  // namespace
}  // namespace hindsight::test
