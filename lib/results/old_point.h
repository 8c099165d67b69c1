#pragma once
// Points of files that were written before points said how they were measured.

#include "results/result_store.h"

namespace hindsight {

/// Completes such a point from its series and from what its file says of the run. Their latency_step was
/// counted from the first replayed step; it is made to count as step does.
void complete_old_point(PointResult& point, const Provenance& provenance);

}  // namespace hindsight
