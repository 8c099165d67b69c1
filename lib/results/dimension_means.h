#pragma once
// Means of a point's series (of latencies medians) over all dimensions but one.

#include <cstdint>
#include <string>
#include <vector>

#include "results/result.h"

namespace hindsight {

enum class Along { layer, head, step };

/// Names of the columns that say which place along the dimension a row is of: {"layer"}, {"q_head"},
/// {"step_from", "step_to"}.
std::vector<std::string> label_columns(Along along);

/// One place along the dimension: a layer, a query head, a range of steps.
struct DimensionMean {
  std::vector<int64_t> label;  ///< as label_columns
  MetricValues means;          ///< "<series>_mean", "latency_..._p50"; NaN where nothing is defined
};

/// The means of every series of reals that has the dimension (a head has that of its selection unit; steps
/// that were timed belong to their range), in the order of the series. Empty where none has it.
std::vector<DimensionMean> dimension_means(const PointResult& point, Along along);

}  // namespace hindsight
