#pragma once
// The metrics that people are shown first; all others are in CSV, JSON and the file itself.

#include <string_view>

namespace hindsight {

/// True for columns of /summary, and of means along a dimension.
bool is_key_metric(std::string_view column);

}  // namespace hindsight
