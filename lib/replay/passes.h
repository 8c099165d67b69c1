#pragma once
// Which points of a sweep are measured by one replay: in the open loop a window changes how many queries are
// revised, and neither scores nor page sets.

#include <functional>
#include <span>
#include <vector>

#include "metrics/events.h"
#include "replay/spec.h"

namespace hindsight {

/// Points of one trace, selector and layers whose parameters differ in retro.window alone, if at all.
using ReplayPass = std::vector<ReplayPoint>;

/// The points that are wanted, in passes; these in the order of their first points. What a pass measures is
/// held until it is written: many points of long traces are more than one pass.
std::vector<ReplayPass> passes_of(const ReplaySpec& spec,
                                  const std::function<bool(const ReplayPoint&)>& is_wanted);

/// Their windows and 1, where every query begins; ascending, each once.
std::vector<int64_t> windows_of(std::span<const ReplayPoint> pass);

/// What metrics are told of the shape of a point.
ReplayShape replay_shape(const ReplayTrace& trace, const ReplayPoint& point);

/// Values that fidelity measures of a point: six series per head, three per unit, five per step.
int64_t measured_values(const ReplayShape& shape);
/// Bytes that they take on the host until they are written.
int64_t measured_bytes(const ReplayShape& shape);

}  // namespace hindsight
