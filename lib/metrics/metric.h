#pragma once
// Metric: an observer of a replay, one file each, listed in metrics.def. Definitions: README, "Metrics".

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/series.h"
#include "core/statistics.h"
#include "metrics/events.h"

namespace hindsight {

/// What metrics hand in when a point is finished.
struct Measurements {
  std::vector<Coordinate> coordinates;  ///< beyond step, layer, q_head, unit
  std::vector<Series> series;
  std::vector<std::pair<std::string, double>> summary;  ///< columns of /summary
};

/// Puts what `from` holds behind what is there.
void append(Measurements& to, Measurements from);

class Metric {
 public:
  virtual ~Metric() = default;
  virtual void on_selection(const SelectionEvent&) {}
  virtual void on_outputs(const OutputEvent&) {}
  virtual void finish(Measurements& measurements) = 0;
};

/// One of each metric, for a point of this shape.
std::vector<std::unique_ptr<Metric>> make_metrics(const ReplayShape& shape);

/// An array over step, layer and one more dimension, to be filled as the replay goes on; NaN where nothing
/// was written.
class StepLayerSeries {
 public:
  StepLayerSeries(const ReplayShape& shape, std::string name, std::string last_dimension, int64_t last_extent,
                  std::string unit, std::string description);
  double& at(int64_t step, int64_t layer, int64_t last) {
    return series_.values[(step * series_.shape[1] + layer) * last_extent_ + last];
  }
  const std::vector<double>& values() const { return series_.values; }
  /// Mean of the values, computed on a thread of its own: series are many megabytes. They must stay as they
  /// are.
  std::future<double> begin_mean() const;
  Series take() { return std::move(series_); }

 private:
  Series series_;
  int64_t last_extent_;
};

}  // namespace hindsight
