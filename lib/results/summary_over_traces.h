#pragma once
// /summary_over_traces: means of the points that differ in the trace alone.

#include <span>

#include "results/result.h"
#include "results/table.h"

namespace hindsight {

/// Means over traces of the points that share name, selector, parameters, steps asked for and layers, one
/// point of each trace. Keys: name, selector, the parameters, steps ("100-299", "0-end"), layers ("2 3 5"),
/// n_traces. For each summary value the mean of those that are defined, and `<value>_ci95`, the half-width of
/// its 95 % confidence interval: t(0.975, n-1) * s / sqrt(n), with Student's t, the sample's standard
/// deviation s and n defined values; undefined where n < 2, and of latencies where traces were timed in
/// batches: the batches of different traces hold the same sequences.
KeyedTable summary_over_traces(std::span<const PointResult> points);

}  // namespace hindsight
