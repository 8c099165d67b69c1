// A sweep is the points of its passes, each as if it had been alone in it, in whatever parts it was run.

#include "replay/sweep.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "support/replay_case.h"

namespace hindsight::test {
namespace {

/// Counts; ends the sweep when so much is done.
class Observer final : public SweepObserver {
 public:
  explicit Observer(double end_at = 1e9) : end_at_(end_at) {}
  void on_progress(double done, double total, const std::string&) override {
    EXPECT_GE(done, done_);
    EXPECT_LE(done, total);
    done_ = done;
    total_ = total;
  }
  void check_interrupt() override {
    if (done_ >= end_at_) throw Interrupted("enough");
  }
  double done() const { return done_; }
  double total() const { return total_; }

 private:
  double end_at_, done_ = 0, total_ = 0;
};

class Sweep : public ::testing::Test {
 protected:
  Sweep() {
    write_small_trace(dir_ / "t.h5", {.n_tokens = 150, .prompt_tokens = 70, .q_start = 70});
    plan_.file = "test.yaml";
    plan_.traces = {{dir_ / "t.h5", "t.h5", "test.yaml"}};
    plan_.repeats = 1;
    for (const int64_t window : {1, 4, 2, 8}) plan_.points.push_back(retro(0.2, window));
    plan_.points.insert(plan_.points.begin() + 2, retro(0.4, 3));
  }
  static MethodPoint retro(double ratio, int64_t window) {
    MethodPoint point = method_point("quest", {{"budget.ratio", ratio}, {"retro.window", window}});
    point.name = "retro";
    return point;
  }
  void run(const std::string& file, bool resume, SweepObserver& observer) {
    const ReplaySpec spec = resolve(plan_, *backend_);
    ResultWriter writer(dir_ / file, {},
                        resume ? std::optional(protocol_of(plan_, *backend_)) : std::nullopt);
    run_sweep(plan_, spec, *backend_, writer, observer);
  }
  /// Of fidelity, by point and name.
  std::map<std::string, std::map<std::string, std::vector<double>>> series_of(const std::string& file) const {
    std::map<std::string, std::map<std::string, std::vector<double>>> all;
    const ResultReader reader(dir_ / file);
    for (const std::string& id : reader.point_ids())
      for (const Series& series : reader.read(id, true).series)
        if (!series.name.starts_with("latency")) all[id][series.name] = series.values;
    return all;
  }
  static void expect_same_bits(
      const std::map<std::string, std::map<std::string, std::vector<double>>>& actual,
      const std::map<std::string, std::map<std::string, std::vector<double>>>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [id, series] : expected)
      for (const auto& [name, values] : series) {
        const std::vector<double>& own = actual.at(id).at(name);
        ASSERT_EQ(own.size(), values.size());
        EXPECT_EQ(0, std::memcmp(own.data(), values.data(), values.size() * sizeof(double))) << id << name;
      }
  }

  TempDir dir_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  SweepPlan plan_;
};

TEST_F(Sweep, GoesOnWherePointsOfAPassAreThere) {
  Observer observer;
  run("whole.h5", false, observer);
  EXPECT_EQ(observer.done(), 5 * 2) << "two layers of each point";
  EXPECT_EQ(observer.total(), observer.done());

  const std::vector<MethodPoint> all = plan_.points;
  plan_.points = {all[1], all[2]};
  run("parts.h5", false, observer = Observer());
  plan_.points = all;
  run("parts.h5", true, observer = Observer());
  EXPECT_EQ(observer.total(), 3 * 2);
  EXPECT_EQ(observer.done(), observer.total());
  expect_same_bits(series_of("parts.h5"), series_of("whole.h5"));
  EXPECT_EQ(ResultReader(dir_ / "parts.h5").point_ids(), ResultReader(dir_ / "whole.h5").point_ids());
}

TEST_F(Sweep, KeepsThePointsOfAPassThatWereWhole) {
  Observer observer;
  run("whole.h5", false, observer);

  plan_.measure_latency = true;
  // Four points go together, two layers each: the fidelity of all is 8 of work, the latency of each 2.
  Observer early(11);
  EXPECT_THROW(run("cut.h5", false, early), Interrupted);
  EXPECT_EQ(series_of("cut.h5").size(), 1u);
  Observer late(13);
  EXPECT_THROW(run("cut.h5", true, late), Interrupted) << "in the second pass, after 12 of the first";
  EXPECT_EQ(series_of("cut.h5").size(), 4u);
  run("cut.h5", true, observer = Observer());
  expect_same_bits(series_of("cut.h5"), series_of("whole.h5"));
}

}  // namespace
}  // namespace hindsight::test
