#pragma once
// Points of one sweep that were measured in several processes or on several machines, in one file.

#include <cstdint>
#include <filesystem>
#include <vector>

namespace hindsight {

struct Merged {
  int64_t points = 0;
  int64_t repeated = 0;  ///< that a file before holds, too; that one's is taken
};

/// Writes the points of all files, with their series, to `output`, in the order of the files, all or none.
/// The result says of the run what the files say: hosts, devices, drivers, revisions and dates that differ
/// are listed, parted by "; ", and so are configurations, as documents of one YAML stream. Throws
/// EnvironmentError (a file that cannot be read, an output that cannot be written or is one of the files),
/// ConfigError (points that were measured otherwise than the first), Interrupted.
Merged merge_results(const std::vector<std::filesystem::path>& files, const std::filesystem::path& output);

}  // namespace hindsight
