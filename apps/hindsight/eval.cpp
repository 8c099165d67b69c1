// hindsight eval: a model decodes with every method of a sweep, or with --dry-run what it would be.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "commands.h"
#include "core/error.h"
#include "core/process_memory.h"
#include "evaluation/estimate.h"
#include "evaluation/evaluation.h"
#include "methods/catalog.h"
#include "model/checkpoint.h"
#include "results/table.h"
#include "sweep_session.h"

namespace hindsight::app {
namespace {

const char* const less_memory = "fewer or shorter sequences or a smaller batch";

void print_dry_run(const EvalPlan& plan, const EvalSpec& spec, const Checkpoint& checkpoint,
                   Backend& backend) {
  Table table({"point", "data", "method", "sequences", "parameters"});
  for (const EvalPoint& point : spec.points)
    table.add_row({point.id, spec.data[point.data].name, point.method.name,
                   static_cast<int64_t>(spec.data[point.data].sequences.size()),
                   parameters_text(point.method.parameters)});
  fmt::print("{}", table.render());
  fmt::print("\n{} points on {}\n", spec.points.size(), backend.device_name());
  fmt::print("tokens        {} to decode, one at a time\n", tokens_to_take(plan, spec, nullptr));
  const SweepEstimate beside_program = estimate_memory(plan, spec, checkpoint.config(), checkpoint, backend);
  SweepEstimate expected = beside_program;
  expected.host_bytes += resident_bytes();
  print_memory(expected, backend);
  // Without the memory there is nothing to measure the time with.
  require_memory(beside_program, backend, plan.file, less_memory);
  expected.seconds = measure_time(plan, spec, Model(checkpoint, backend, precision_of(plan)), backend);
  print_time_and_output(expected, plan.output);
}

/// Where an evaluation runs, and what it is there.
struct Placed {
  std::unique_ptr<Backend> backend;
  EvalSpec spec;
};

/// On the device that the plan names; `auto` is the CPU also where a GPU lacks what a model needs beside a
/// driver, or cannot run a point. Throws EnvironmentError where that is so of a device that was named, and
/// what resolve_evaluation throws.
Placed place(const EvalPlan& plan, const ModelConfig& config, const std::string& digest) {
  const auto on = [&](std::unique_ptr<Backend> backend) {
    backend->model_primitives();
    EvalSpec spec = resolve_evaluation(plan, config, digest, *backend);
    return Placed{std::move(backend), std::move(spec)};
  };
  try {
    return on(open_backend(plan.device));
  } catch (const EnvironmentError&) {
    if (plan.device != "auto") throw;
    return on(make_cpu_backend());
  }
}

void evaluate(const SweepOptions& options, const CommandLine& line) {
  const EvalPlan plan = load_eval_plan(options.config, method_catalog(), options.overrides());
  const Checkpoint checkpoint(plan.model);
  const std::string digest = checkpoint.digest();
  const auto [backend, spec] = place(plan, checkpoint.config(), digest);
  if (options.dry_run) return print_dry_run(plan, spec, checkpoint, *backend);
  require_memory(estimate_memory(plan, spec, checkpoint.config(), checkpoint, *backend), *backend, plan.file,
                 less_memory);

  std::vector<std::pair<std::string, std::string>> digests{{plan.model_name, digest}};
  for (const EvalData& data : spec.data) digests.emplace_back(data.name, data.digest);
  const std::optional<Protocol> resume =
      options.resume ? std::optional(protocol_of(plan, *backend)) : std::nullopt;
  ResultWriter writer(plan.output, provenance_of(plan.resolved_yaml, *backend, std::move(digests)), resume);
  const Model model(checkpoint, *backend, precision_of(plan));
  spdlog::info("{} points, {} files, on {}", spec.points.size(), spec.data.size(), backend->device_name());
  {
    TerminalObserver observer(!line.quiet);
    run_evaluation(plan, spec, model, *backend, writer, observer);
  }
  spdlog::info("results in {}; see them with: hindsight report {}", plan.output.string(),
               plan.output.string());
}

}  // namespace

void add_eval_command(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<SweepOptions>();
  CLI::App* command = app.add_subcommand("eval", "let a model decode with every method of a sweep");
  add_sweep_options(*command, *options);
  command->footer(
      "Example: hindsight eval experiments/closed_loop/tasks.yaml --set sequences=4 -o /tmp/tasks.h5\n"
      "`sequences: N` takes N of each file, spread evenly over it.");
  command->callback([options, &line] { line.action = [options, &line] { evaluate(*options, line); }; });
}

}  // namespace hindsight::app
