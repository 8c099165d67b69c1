#pragma once
// Latency replay: steps one at a time as a serving engine would run them, a batch of sequences at once, timed
// by stage.

#include <functional>

#include "metrics/metric.h"
#include "replay/spec.h"

namespace hindsight {

struct LatencyOptions {
  int64_t repeats = 20;  ///< of each measurement
  int64_t batch =
      1;  ///< sequences: the point's trace and those after it, around the end; one trace is replicated
};

/// Times the stages append, score, select, attend, merge (and total) of single steps at up to eight places of
/// the replay, per layer, in microseconds. Series latency_us_<stage> [latency_step, layer, latency_repeat];
/// latency_step is counted as step is, from the end of the prompt.
Measurements replay_latency(Backend& backend, const ReplaySpec& spec, const ReplayPoint& point,
                            const LatencyOptions& options, const std::function<void()>& layer_done);

/// Steps (counted from the first replayed one) at which latency is measured: up to eight, evenly spread.
std::vector<int64_t> latency_steps(int64_t n_steps);

}  // namespace hindsight
