#pragma once
// Points of one sweep that were measured in several processes or on several machines, in one file.

#include <cstdint>
#include <filesystem>
#include <vector>

namespace hindsight {

/// Writes the points of all files, with their series, to `output`, in the order of the files; of a point that
/// several hold, the first. The result says of the run what the files say: hosts, drivers, revisions and
/// dates that differ are listed, and so are their configurations, as documents of one YAML stream. Returns
/// the number of points. Throws EnvironmentError (a file that cannot be read, an output that cannot be
/// written or is one of the files), ConfigError (points that were measured otherwise than the first).
int64_t merge_results(const std::vector<std::filesystem::path>& files, const std::filesystem::path& output);

}  // namespace hindsight
