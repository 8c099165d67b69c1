#pragma once
// The sweep: every point, one after the other; each is durable when it is done.

#include <functional>
#include <string>

#include "replay/estimate.h"
#include "replay/spec.h"
#include "results/result_store.h"

namespace hindsight {

/// Told how a sweep goes on. Called from the thread that runs it.
class SweepObserver {
 public:
  virtual ~SweepObserver() = default;
  /// `done` of `total` units of work (about equal in time); `label` names the point in work.
  virtual void on_progress(double done, double total, const std::string& label) = 0;
  /// Called often; throws Interrupted to end the sweep. Finished points are kept.
  virtual void check_interrupt() = 0;
};

/// What the plan asks to measure, on this backend.
Protocol protocol_of(const SweepPlan& plan, const Backend& backend);

/// Runs the points that `writer` does not hold yet.
void run_sweep(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend, ResultWriter& writer,
               SweepObserver& observer);

}  // namespace hindsight
