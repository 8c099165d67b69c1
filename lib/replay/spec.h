#pragma once
// What is to be replayed, checked against the traces: the last place where a request can be refused before
// work begins.

#include <filesystem>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "config/sweep_plan.h"
#include "trace/trace.h"

namespace hindsight {

/// A trace of the sweep and what of it is replayed.
struct ReplayTrace {
  std::string name;  ///< as the configuration names it
  std::filesystem::path file;
  TraceInfo info;
  std::string digest;             ///< SHA-256 of the file
  std::vector<int64_t> layers;    ///< model indices of the layers asked for
  std::vector<DType> dtypes;      ///< storage types of these layers; they may differ
  std::vector<int64_t> q_starts;  ///< of these layers: position of the first stored query
  int64_t first_position = 0;     ///< of the first replayed step
  int64_t n_steps = 0;
  int64_t last_position() const { return first_position + n_steps - 1; }
  /// The first replayed step, counted from the end of the prompt as in the configuration.
  int64_t first_step() const { return first_position - info.prompt_tokens; }
  /// Storage type of one of `layers`.
  DType dtype_of(int64_t layer) const { return dtypes.at(place_of(layer)); }
  int64_t q_start_of(int64_t layer) const { return q_starts.at(place_of(layer)); }

 private:
  size_t place_of(int64_t layer) const;  // of one of `layers`; past their end for any other
};

/// A point of the sweep on one trace.
struct ReplayPoint {
  std::string id;
  size_t trace = 0;  ///< index into ReplaySpec::traces
  MethodPoint method;
  std::vector<int64_t> layers;  ///< sparse layers: those asked for from dense_layers on
};

struct ReplaySpec {
  std::vector<ReplayTrace> traces;
  std::vector<ReplayPoint> points;  ///< trace by trace, in the order of the configuration
};

/// Opens the traces of the plan and resolves layers and steps. Throws TraceError (a trace cannot be used),
/// ConfigError (a trace given twice, layers or steps that a trace lacks, no sparse layer left),
/// EnvironmentError (the backend cannot run a point).
ReplaySpec resolve(const SweepPlan& plan, const Backend& backend);

}  // namespace hindsight
