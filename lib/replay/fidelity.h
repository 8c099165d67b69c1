#pragma once
// Fidelity replay: the points of a pass over all their layers, in blocks of hundreds of steps; metrics
// observe it.

#include <cstdint>
#include <functional>

#include "metrics/metric.h"
#include "replay/passes.h"
#include "replay/residency.h"

namespace hindsight {

/// Layers whose results wait for metrics to take them in, at most, when a replay goes on to another layer.
inline constexpr int64_t unobserved_layers = 3;

/// Replays the points of a pass at once (retroattention paper, section 3, open loop) and returns what the
/// metrics measured of each, the same as if it had been replayed alone. `layer_done` is called once a layer
/// has been measured; what it throws ends the replay.
std::vector<Measurements> replay_fidelity(Backend& backend, Residency& residency, const ReplayTrace& trace,
                                          std::span<const ReplayPoint> pass,
                                          const std::function<void()>& layer_done);

}  // namespace hindsight
