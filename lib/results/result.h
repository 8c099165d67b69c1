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

/// One finished point.
struct PointResult {
  std::string id;     ///< see point_id
  std::string trace;  ///< trace file as the configuration names it
  std::string trace_digest;
  std::string name, selector;
  ParameterSet parameters;
  std::vector<Coordinate> coordinates;
  std::vector<Series> series;
  MetricValues summary;  ///< columns of /summary after the parameters
};

}  // namespace hindsight
