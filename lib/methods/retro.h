#pragma once
// What a configuration says of the retrospective window (RetroAttention, arXiv 2508.09001, section 3).

#include "backend/backend.h"
#include "config/parameters.h"

namespace hindsight {

/// window alone concerns a replay; the rest what happens across the layers of a model that decodes.
struct RetroOptions {
  int64_t window = 1;           ///< w; 1 where a point is not refined
  bool original_query = false;  ///< a past position attends with its query as first computed
  bool attend_again = false;    ///< to all it was shown, instead of merging what is newly shown
  Summaries summaries = Summaries::recompute;
};

RetroOptions retro_options(const ParameterSet& parameters);

}  // namespace hindsight
