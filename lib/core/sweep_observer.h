#pragma once
// Who is told how a sweep goes on, and may end it.

#include <string>

namespace hindsight {

/// Called from the thread that runs the sweep, or from several, one at a time.
class SweepObserver {
 public:
  virtual ~SweepObserver() = default;
  /// `done` of `total` units of work (about equal in time); `label` names the point in work.
  virtual void on_progress(double done, double total, const std::string& label) = 0;
  /// Called often; throws Interrupted to end the sweep. Finished points are kept.
  virtual void check_interrupt() = 0;
};

}  // namespace hindsight
