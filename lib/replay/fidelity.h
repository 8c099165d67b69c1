#pragma once
// Fidelity replay: one point over all its layers, in blocks of hundreds of steps; metrics observe it.

#include <functional>

#include "metrics/metric.h"
#include "replay/residency.h"

namespace hindsight {

/// Replays `point` (retroattention paper, section 3, open loop) and returns what the metrics measured.
/// `layer_done` is called after each layer; what it throws ends the replay.
Measurements replay_fidelity(Backend& backend, Residency& residency, const ReplayTrace& trace,
                             const ReplayPoint& point, const std::function<void()>& layer_done);

/// What metrics are told of the shape of a point.
ReplayShape replay_shape(const ReplayTrace& trace, const ReplayPoint& point);

}  // namespace hindsight
