#pragma once
// Replays of small traces through the whole of lib/replay, without result files.

#include <gtest/gtest.h>

#include "backend/backend.h"
#include "replay/estimate.h"
#include "replay/fidelity.h"
#include "replay/spec.h"
#include "support/method_point.h"
#include "support/small_trace.h"
#include "support/temp_dir.h"

namespace hindsight::test {

/// Measures points on one trace file.
class ReplayCase {
 public:
  ReplayCase(const std::filesystem::path& trace, Backend& backend, StepRange steps = {}) : backend_(backend) {
    plan_.file = "test.yaml";
    plan_.traces = {{trace, trace.filename().string(), "test.yaml"}};
    plan_.steps = steps;
  }

  Measurements measure(const MethodPoint& point) { return std::move(measure(std::vector{point}).front()); }
  /// Points that are one pass.
  std::vector<Measurements> measure(const std::vector<MethodPoint>& points) {
    plan_.points = points;
    spec_ = resolve(plan_, backend_);
    const std::vector<ReplayPass> passes = passes_of(spec_, [](const ReplayPoint&) { return true; });
    EXPECT_EQ(passes.size(), 1u) << "the points differ in more than their window";
    Residency residency(backend_, spec_.traces[0], residency_limit_);
    return replay_fidelity(backend_, residency, spec_.traces[0], passes.at(0), layer_done_);
  }
  void when_a_layer_is_done(std::function<void()> layer_done) { layer_done_ = std::move(layer_done); }
  /// Nothing stays resident: every layer, cache and reference is made again when it is needed.
  void keep_nothing() { residency_limit_ = 0; }
  SweepPlan& plan() { return plan_; }

 private:
  Backend& backend_;
  SweepPlan plan_;
  ReplaySpec spec_;
  int64_t residency_limit_ = int64_t{1} << 30;
  std::function<void()> layer_done_ = [] {};
};

inline const Series& series(const Measurements& measured, const std::string& name) {
  for (const Series& candidate : measured.series)
    if (candidate.name == name) return candidate;
  throw std::out_of_range("no series " + name);
}

inline double summary(const Measurements& measured, const std::string& name) {
  for (const auto& [column, value] : measured.summary)
    if (column == name) return value;
  throw std::out_of_range("no column " + name);
}

}  // namespace hindsight::test
