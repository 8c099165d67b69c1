#pragma once
// The sweep of an evaluation: every method on every file of sequences; each point is durable when it is done.

#include <string>
#include <vector>

#include "backend/backend.h"
#include "config/eval_plan.h"
#include "core/sweep_observer.h"
#include "evaluation/eval_data.h"
#include "model/model.h"
#include "results/result_store.h"

namespace hindsight {

/// A method on one file.
struct EvalPoint {
  std::string id;
  size_t data = 0;  ///< index into EvalSpec::data
  MethodPoint method;
};

struct EvalSpec {
  std::vector<EvalData> data;
  std::vector<EvalPoint> points;  ///< file by file, in the order of the configuration
};

/// Reads the data and checks the points against the model. An id is a hash of the method, of what is
/// evaluated and how, and of the model's and the file's contents. Throws InputError (data), ConfigError (the
/// configuration does not fit data or model), EnvironmentError (the backend cannot run a point).
EvalSpec resolve_evaluation(const EvalPlan& plan, const ModelConfig& config, const std::string& model_digest,
                            const Backend& backend);

/// What the model of the plan is loaded with.
Precision precision_of(const EvalPlan& plan);

Protocol protocol_of(const EvalPlan& plan, const Backend& backend);

/// Tokens that a sequence takes one at a time.
int64_t steps_of(const EvalPlan& plan, const EvalSequence& sequence);

/// Tokens that the points take which `writer` does not hold yet: the work ahead.
int64_t tokens_to_take(const EvalPlan& plan, const EvalSpec& spec, const ResultWriter* writer);

/// Runs the points that `writer` does not hold yet, with a model that was loaded for `backend`.
void run_evaluation(const EvalPlan& plan, const EvalSpec& spec, const Model& model, Backend& backend,
                    ResultWriter& writer, SweepObserver& observer);

}  // namespace hindsight
