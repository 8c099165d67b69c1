#include "replay/sweep.h"

#include <fmt/format.h>

#include <memory>

#include "replay/fidelity.h"
#include "replay/latency.h"

namespace hindsight {
namespace {

std::vector<int64_t> count_to(int64_t n, int64_t from = 0) {
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < n; ++i) numbers.push_back(from + i);
  return numbers;
}

/// "100-299", "0-end": what is asked of every trace, though traces that differ in length end at other steps.
std::string asked_for(const StepRange& steps) {
  return fmt::format("{}-{}", steps.from,
                     steps.count ? std::to_string(steps.from + *steps.count - 1) : "end");
}

PointResult as_result(const SweepPlan& plan, const ReplayTrace& trace, const ReplayPoint& point,
                      const Protocol& protocol, Measurements measured) {
  const ReplayShape shape = replay_shape(trace, point);
  PointResult result;
  result.id = point.id;
  result.trace = trace.name;
  result.trace_digest = trace.digest;
  result.name = point.method.name;
  result.selector = point.method.selector;
  result.parameters = point.method.parameters;
  result.steps = asked_for(plan.steps);
  result.protocol = protocol;
  result.coordinates = {{"step", count_to(shape.n_steps, trace.first_step())},
                        {"layer", point.layers},
                        {"q_head", count_to(shape.n_q_heads)},
                        {"unit", count_to(shape.n_units)}};
  for (auto& coordinate : measured.coordinates) result.coordinates.push_back(std::move(coordinate));
  result.series = std::move(measured.series);
  result.summary = std::move(measured.summary);
  return result;
}

}  // namespace

Protocol protocol_of(const SweepPlan& plan, const Backend& backend) {
  Protocol protocol{plan.measure_fidelity, plan.measure_latency, 0, 0, backend.device_name()};
  if (plan.measure_latency) {
    protocol.repeats = plan.repeats;
    protocol.batch = plan.batch;
  }
  return protocol;
}

void run_sweep(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend, ResultWriter& writer,
               SweepObserver& observer) {
  std::vector<std::string> order;
  for (const ReplayPoint& point : spec.points) order.push_back(point.id);
  writer.set_order(order);
  const std::vector<ReplayPass> passes =
      passes_of(spec, [&](const ReplayPoint& point) { return !writer.has(point.id); });
  double total = 0, done = 0;
  for (const ReplayPass& pass : passes)
    total += static_cast<double>(pass.size() * pass.front().layers.size()) *
             (plan.measure_fidelity + plan.measure_latency);

  std::unique_ptr<Residency> residency;
  size_t resident_trace = spec.traces.size();
  for (const ReplayPass& pass : passes) {
    const ReplayTrace& trace = spec.traces[pass.front().trace];
    if (resident_trace != pass.front().trace) {
      residency.reset();
      residency = std::make_unique<Residency>(backend, trace, residency_limit(backend));
      resident_trace = pass.front().trace;
    }
    const auto layer_done_of = [&](const ReplayPoint& point, size_t points) {
      observer.on_progress(done, total, point.method.name);
      return [&, points] {
        done += static_cast<double>(points);
        observer.on_progress(done, total, point.method.name);
        observer.check_interrupt();
      };
    };
    std::vector<Measurements> measured(pass.size());
    if (plan.measure_fidelity)
      measured = replay_fidelity(backend, *residency, trace, pass, layer_done_of(pass.front(), pass.size()));
    for (size_t i = 0; i < pass.size(); ++i) {
      if (plan.measure_latency)
        append(measured[i],
               replay_latency(backend, spec, pass[i], {plan.repeats, plan.batch}, layer_done_of(pass[i], 1)));
      writer.add(as_result(plan, trace, pass[i], protocol_of(plan, backend), std::move(measured[i])));
    }
  }
}

}  // namespace hindsight
