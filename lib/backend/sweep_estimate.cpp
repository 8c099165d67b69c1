#include "backend/sweep_estimate.h"

#include <fmt/format.h>

#include "core/error.h"

namespace hindsight {

void require_memory(const SweepEstimate& needed, const Backend& backend, const std::filesystem::path& file,
                    const std::string& right) {
  const auto require = [&](int64_t bytes, int64_t available, const std::string& where) {
    if (bytes > available)
      throw EnvironmentError(
          fmt::format("{}: the sweep needs about {} MB and {} has {} MB left; {} would be right "
                      "(--dry-run states what a sweep needs)",
                      file.string(), bytes / 1000000, where, available / 1000000, right));
  };
  if (needed.device_bytes > 0) require(needed.device_bytes, backend.available_bytes(), backend.device_name());
  const auto host = make_cpu_backend();
  require(needed.host_bytes, host->available_bytes(), host->device_name());
}

}  // namespace hindsight
