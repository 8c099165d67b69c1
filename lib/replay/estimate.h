#pragma once
// What a sweep will take, before it runs: memory from shapes, time from shapes and a short measurement of
// this machine.

#include "backend/sweep_estimate.h"
#include "replay/spec.h"

namespace hindsight {

/// Bytes that resident layers, caches and references may take on the backend: three quarters of what is
/// available.
int64_t residency_limit(const Backend& backend);

/// Estimates a sweep. Takes a fraction of a second: the rate of dense attention is measured on a small layer
/// of the first trace's shape.
SweepEstimate estimate(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend);

/// Throws EnvironmentError where host or device has not the memory that a sweep needs.
void require_memory(const SweepPlan& plan, const ReplaySpec& spec, const Backend& backend);

}  // namespace hindsight
