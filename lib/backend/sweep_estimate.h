#pragma once
// What a sweep, of replays or of evaluations, will take before it runs.

#include <cstdint>
#include <filesystem>
#include <string>

#include "backend/backend.h"

namespace hindsight {

struct SweepEstimate {
  int64_t host_bytes = 0;    ///< peak of the process
  int64_t device_bytes = 0;  ///< peak on the device; 0 where that is the host
  double seconds = 0;        ///< of all points
  int64_t output_bytes = 0;  ///< of the result file before compression
};

/// Throws EnvironmentError where host or device has not the memory that `needed` says, which the process does
/// not hold yet. Asked before a sweep runs: Linux grants more than there is, and kills whoever uses it.
/// `file` is the configuration, `right` what would be right.
void require_memory(const SweepEstimate& needed, const Backend& backend, const std::filesystem::path& file,
                    const std::string& right);

}  // namespace hindsight
