#include "evaluation/groups.h"

#include <omp.h>

#include <algorithm>

namespace hindsight {

int64_t groups_at_once(const Backend& backend) { return backend.is_device() ? 1 : omp_get_max_threads(); }

std::vector<Group> groups_of(const EvalData& data, int64_t batch, int64_t threads) {
  std::vector<Group> groups;
  const auto n = static_cast<int64_t>(data.sequences.size());
  const auto size = static_cast<size_t>(std::min(batch, (n + threads - 1) / threads));
  for (size_t first = 0; first < data.sequences.size(); first += size)
    groups.push_back({first, std::min(size, data.sequences.size() - first)});
  return groups;
}

}  // namespace hindsight
