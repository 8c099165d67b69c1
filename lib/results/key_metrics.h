#pragma once
// The metrics that people are shown first; all others are in CSV, JSON and the file itself.

#include <cstddef>
#include <optional>
#include <string_view>

namespace hindsight {

/// The place of a key metric among the key metrics; none for other columns. Knows columns of /summary, and of
/// means along a dimension.
std::optional<size_t> key_metric_rank(std::string_view column);

}  // namespace hindsight
