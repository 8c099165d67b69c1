#pragma once
// Two result files side by side.

#include <string>
#include <vector>

#include "results/result_store.h"
#include "results/table.h"

namespace hindsight {

struct Comparison {
  /// A row per point and metric: the keys of the point in A and the metric; then a, b, difference (b - a) and
  /// ratio (b / a; undefined where a is 0).
  KeyedTable table;
  /// Points that only one file has, each as one line.
  std::vector<std::string> unmatched;
  /// Pairs that were measured over other steps or layers: their ids differ.
  int64_t n_other_range = 0;
};

/// Points are the same if name, selector, parameters and the trace's digest are; ids need not be.
Comparison compare(const ResultReader& a, const ResultReader& b);

/// Rows of the key metrics, and the columns that differ.
Table for_people(const Comparison& comparison);

}  // namespace hindsight
