#pragma once
// What a finished point is, as plain data: produced by replay, kept by ResultStore, read back by report and
// compare.

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "config/parameters.h"
#include "core/series.h"

namespace hindsight {

/// Metrics and their values, in the order of their columns.
using MetricValues = std::vector<std::pair<std::string, double>>;

/// What of a point is measured, and how: what its numbers depend on beside its method, steps and trace.
struct Protocol {
  bool fidelity = false, latency = false;
  int64_t repeats = 0, batch = 0;  ///< of latencies; 0 where they are not measured
  std::string device;              ///< "CPU, 2 threads", "cuda:0 NVIDIA H200"
  std::string mode{};              ///< of an evaluation: "teacher_forced", "generate"; empty for a replay
  bool recall = false;             ///< of an evaluation: true mass is measured
  int64_t average_steps = 1;       ///< of an evaluation: steps that a value of a series is the mean of
  bool operator==(const Protocol&) const = default;
};

/// One finished point.
struct PointResult {
  std::string id;     ///< see point_id
  std::string trace;  ///< trace file as the configuration names it
  std::string trace_digest;
  std::string name, selector;
  ParameterSet parameters;
  std::string steps;  ///< asked for, from the end of the prompt: "100-299", or "0-end" where that is all
  Protocol protocol;
  std::vector<Coordinate> coordinates;
  std::vector<Series> series;
  MetricValues summary;  ///< columns of /summary after the parameters
};

}  // namespace hindsight
