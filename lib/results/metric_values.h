#pragma once
// Looking into the metrics of points, of which not all have the same.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "results/result.h"

namespace hindsight {

/// The value of a metric; none where it is undefined or not there.
std::optional<double> defined_value(const MetricValues& metrics, const std::string& name);

/// The names of all metrics, each once, in order of first appearance.
std::vector<std::string> names_of(std::span<const MetricValues> metrics);

/// The summary of every point.
std::vector<MetricValues> summaries_of(std::span<const PointResult> points);

}  // namespace hindsight
