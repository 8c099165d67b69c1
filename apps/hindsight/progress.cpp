#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace hindsight::app {

ProgressBar::ProgressBar(bool enabled)
    : shown_(enabled && isatty(STDERR_FILENO)), start_(std::chrono::steady_clock::now()) {}

ProgressBar::~ProgressBar() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void ProgressBar::update(double done, double total, const std::string& label) {
  const auto now = std::chrono::steady_clock::now();
  if (!shown_ || total <= 0 || now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  constexpr int width = 30;
  const double share = std::clamp(done / total, 0.0, 1.0);
  const int filled = static_cast<int>(share * width);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const std::string left = done > 0 ? format_duration(elapsed * (total - done) / done) + " left" : "";
  fmt::print(stderr, "\r\033[K[{:#<{}}{:.<{}}] {:3.0f} %  {}  {}", "", filled, "", width - filled,
             100 * share, left, label);
  std::fflush(stderr);
}

std::string format_duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<long>(std::lround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

}  // namespace hindsight::app
