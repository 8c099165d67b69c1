#pragma once
// How the sequences of a file are decoded: some together, and on the CPU several such groups at once.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "evaluation/eval_data.h"

namespace hindsight {

/// Sequences [first, first + n) of a file.
struct Group {
  size_t first = 0, n = 0;
  std::span<const EvalSequence> of(const EvalData& data) const {
    return std::span(data.sequences).subspan(first, n);
  }
};

/// Groups that are decoded at once: on the CPU they are independent, a device runs one after the other.
int64_t groups_at_once(const Backend& backend);
/// At most `batch` sequences together, and fewer where threads would have no group.
std::vector<Group> groups_of(const EvalData& data, int64_t batch, int64_t threads);

}  // namespace hindsight
