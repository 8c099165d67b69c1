#pragma once
// What an evaluation will take, before it runs: memory from shapes, time from a few steps of every method.

#include "backend/sweep_estimate.h"
#include "evaluation/evaluation.h"
#include "model/weight_source.h"

namespace hindsight {

/// Memory and output, beside what the process holds already; the weights are not among that.
SweepEstimate estimate_memory(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                              const WeightSource& weights, const Backend& backend);

/// Seconds of all points. Takes some seconds of them: of each method with each window one point decodes a few
/// tokens, after as many as in the middle of a sequence.
double measure_time(const EvalPlan& plan, const EvalSpec& spec, const Model& model, Backend& backend);

}  // namespace hindsight
