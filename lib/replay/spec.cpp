#include "replay/spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "methods/catalog.h"

namespace hindsight {
namespace {

std::vector<int64_t> resolve_layers(const SweepPlan& plan, const TraceInfo& info, const std::string& trace) {
  if (!plan.layers) return info.layers;
  for (const int64_t layer : *plan.layers)
    if (std::find(info.layers.begin(), info.layers.end(), layer) == info.layers.end())
      throw ConfigError(fmt::format("{}: layers: trace {} does not hold layer {}; it holds {}",
                                    plan.file.string(), trace, layer, fmt::join(info.layers, ", ")));
  std::vector<int64_t> layers = *plan.layers;
  std::sort(layers.begin(), layers.end());
  return layers;
}

ReplayTrace open_trace(const SweepPlan& plan, const TraceFile& named) {
  const TraceReader reader(named.file);
  ReplayTrace trace;
  trace.name = named.name;
  trace.file = named.file;
  trace.info = reader.info();
  trace.digest = file_digest(named.file);
  trace.layers = resolve_layers(plan, trace.info, trace.name);
  for (const int64_t layer : trace.layers) {
    trace.dtypes.push_back(reader.dtype(layer));
    trace.q_starts.push_back(reader.q_start(layer));
  }

  const int64_t available = trace.info.n_decode_steps();
  if (plan.steps.from >= available)
    throw ConfigError(
        fmt::format("{}: steps.from: {} is past the end of trace {}, which has {} decode steps (0 to {})",
                    plan.file.string(), plan.steps.from, trace.name, available, available - 1));
  trace.n_steps = plan.steps.count.value_or(available - plan.steps.from);
  if (trace.n_steps > available - plan.steps.from)
    throw ConfigError(fmt::format(
        "{}: steps.count: {} steps from {} on are more than trace {} has; at most {}", plan.file.string(),
        trace.n_steps, plan.steps.from, trace.name, available - plan.steps.from));
  trace.first_position = trace.info.prompt_tokens + plan.steps.from;
  return trace;
}

ReplayPoint place(const SweepPlan& plan, const ReplaySpec& spec, size_t trace_index,
                  const MethodPoint& method, const Backend& backend) {
  const ReplayTrace& trace = spec.traces[trace_index];
  ReplayPoint point;
  point.trace = trace_index;
  point.method = method;
  const int64_t dense_layers = method.parameters.integer("dense_layers");
  std::copy_if(trace.layers.begin(), trace.layers.end(), std::back_inserter(point.layers),
               [&](int64_t layer) { return layer >= dense_layers; });
  if (point.layers.empty())
    throw ConfigError(fmt::format(
        "{}: method '{}': no sparse layer is left: trace {} is asked for layers {}, and dense_layers is {}; "
        "lower dense_layers or ask for later layers",
        plan.file.string(), method.name, trace.name, fmt::join(trace.layers, ", "), dense_layers));
  for (const int64_t layer : point.layers) {
    const std::string refusal = backend.unsupported(
        trace.dtype_of(layer), trace.info.head_dim, trace.info.n_q_heads / trace.info.n_kv_heads,
        method.parameters.integer("page_size"), retro_window(method.parameters));
    if (!refusal.empty())
      throw EnvironmentError(fmt::format("{}: method '{}' on {}: {}", plan.file.string(), method.name,
                                         backend.device_name(), refusal));
  }
  point.id = point_id(method, plan.steps, trace.layers, trace.digest);
  return point;
}

/// A copy would be the same points again, and one sample counted twice in means over traces.
void check_that_traces_differ(const SweepPlan& plan, const ReplaySpec& spec) {
  for (size_t i = 0; i < spec.traces.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (spec.traces[i].digest == spec.traces[j].digest)
        throw ConfigError(fmt::format(
            "{}: traces: {} is byte for byte {} (at {}); every trace once would be right",
            plan.traces[i].place, plan.traces[i].name, plan.traces[j].name, plan.traces[j].place));
}

/// A batch runs its sequences through the same kernels: they must be of one model and hold the same layers.
void check_batch(const SweepPlan& plan, const ReplaySpec& spec) {
  if (plan.batch == 1 || !plan.measure_latency) return;
  const ReplayTrace& first = spec.traces.front();
  for (const ReplayTrace& other : spec.traces) {
    const TraceInfo &a = first.info, &b = other.info;
    if (a.n_q_heads != b.n_q_heads || a.n_kv_heads != b.n_kv_heads || a.head_dim != b.head_dim ||
        a.softmax_scale != b.softmax_scale || first.layers != other.layers || first.dtypes != other.dtypes)
      throw ConfigError(
          fmt::format("{}: batch: {} cannot batch traces {} and {}: heads, head_dim, scale, layers or their "
                      "types differ; use batch: 1",
                      plan.file.string(), plan.batch, first.name, other.name));
  }
}

}  // namespace

size_t ReplayTrace::place_of(int64_t layer) const {
  return static_cast<size_t>(std::find(layers.begin(), layers.end(), layer) - layers.begin());
}

ReplaySpec resolve(const SweepPlan& plan, const Backend& backend) {
  ReplaySpec spec;
  for (const TraceFile& trace : plan.traces) spec.traces.push_back(open_trace(plan, trace));
  check_that_traces_differ(plan, spec);
  check_batch(plan, spec);
  for (size_t trace = 0; trace < spec.traces.size(); ++trace)
    for (const MethodPoint& method : plan.points)
      spec.points.push_back(place(plan, spec, trace, method, backend));
  return spec;
}

}  // namespace hindsight
