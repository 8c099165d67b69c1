#pragma once
// /summary: one compound row per point.

#include <span>
#include <string>
#include <vector>

#include "hdf5/hdf5.h"
#include "results/result.h"
#include "results/table.h"

namespace hindsight {

/// The rows of points as a table: point, trace, name, selector, a column per parameter (sorted; NaN, 0 or ""
/// where a point lacks it), then the summary values in order of first appearance (NaN where a point lacks
/// one).
Table summary_table(std::span<const PointResult> points);

/// Means over traces of the points that share name, selector and parameters: n_traces, and for each summary
/// value its mean and
/// `<value>_ci95`, the half-width of the 95 % confidence interval t(0.975, n-1) * s / sqrt(n) (NaN for one
/// trace).
Table summary_over_traces(std::span<const PointResult> points);

/// Writes a table as a compound dataset: strings of fixed length, int64, float64.
void write_table(hid_t at, const std::string& name, const Table& table);

}  // namespace hindsight
