#pragma once
// The sweep: pass by pass, the points of one and the same replay after one another; each is durable when it
// is done.

#include "core/sweep_observer.h"
#include "replay/estimate.h"
#include "replay/spec.h"
#include "results/result_store.h"

namespace hindsight {

/// What the plan asks to measure, on this backend.
Protocol protocol_of(const SweepPlan& plan, const Backend& backend);

/// Runs the points that `writer` does not hold yet.
void run_sweep(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend, ResultWriter& writer,
               SweepObserver& observer);

}  // namespace hindsight
