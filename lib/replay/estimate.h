#pragma once
// What a sweep will take, before it runs: memory from shapes, time from shapes and a short measurement of
// this machine.

#include "replay/spec.h"

namespace hindsight {

/// Bytes that resident layers, caches and references may take on the backend: three quarters of what is
/// available.
int64_t residency_limit(const Backend& backend);

struct SweepEstimate {
  int64_t host_bytes = 0;    ///< peak of the process
  int64_t device_bytes = 0;  ///< peak on the device; 0 where that is the host
  double seconds = 0;        ///< of all points
  int64_t output_bytes = 0;  ///< of the result file before compression
};

/// Estimates a sweep. Takes a fraction of a second: the rate of dense attention is measured on a small layer
/// of the first trace's shape.
SweepEstimate estimate(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend);

/// Throws EnvironmentError where the backend has not the memory that a sweep needs. Asked before it runs:
/// Linux grants more than there is, and kills whoever uses it.
void require_memory(const SweepPlan& plan, const ReplaySpec& spec, const Backend& backend);

}  // namespace hindsight
