#pragma once
// A progress bar with the time left, on stderr, where that is a terminal.

#include <chrono>
#include <string>

namespace hindsight::app {

class ProgressBar {
 public:
  /// Shows nothing unless `enabled` and stderr is a terminal.
  explicit ProgressBar(bool enabled);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` of `total` units of equal time. Redraws at most ten times a second.
  void update(double done, double total, const std::string& label);

 private:
  bool shown_;
  std::chrono::steady_clock::time_point start_, drawn_;
};

/// "4.2 s", "3 min 20 s", "2 h 5 min".
std::string format_duration(double seconds);
/// "640 B", "12.3 MB".
std::string format_bytes(double bytes);

}  // namespace hindsight::app
