#pragma once
// A table reduced to the columns that a person needs.

#include <functional>
#include <string>

#include "results/table.h"

namespace hindsight {

/// Of the keys those that differ between rows, of the rest those that `shows` says (keys that it says, too)
/// and that are defined in some row. A mean and its interval `<mean>_ci95` become one cell, "0.5 ± 0.1". The
/// point's id (the first key, if there is one) stays only where nothing else tells rows apart.
Table reduce(const KeyedTable& keyed, const std::function<bool(const std::string&)>& shows);

}  // namespace hindsight
