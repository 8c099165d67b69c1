#pragma once
// A table reduced to the columns that a person needs.

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "results/table.h"

namespace hindsight {

/// The place among the measured columns that a column is shown at; none: it is not shown.
using ColumnRank = std::function<std::optional<size_t>(const std::string&)>;

/// Of the keys those that differ between rows and those with a rank; of the rest, by rank, those with one
/// that are defined in some row. A mean and its interval `<mean>_ci95` become one cell, "0.5±0.1". The
/// selector, which goes with the name, is left out, and so is the point's id (the first key, if there is one)
/// unless nothing else tells rows apart. Traces are called by as much of the end of their path as tells them
/// apart.
Table reduce(const KeyedTable& keyed, const ColumnRank& rank);

}  // namespace hindsight
