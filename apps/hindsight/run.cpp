// hindsight run: every point of a sweep, or with --dry-run what it would be.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "commands.h"
#include "methods/catalog.h"
#include "replay/sweep.h"
#include "results/table.h"
#include "sweep_session.h"

namespace hindsight::app {
namespace {

std::vector<std::pair<std::string, std::string>> digests_of(const ReplaySpec& spec) {
  std::vector<std::pair<std::string, std::string>> digests;
  for (const ReplayTrace& trace : spec.traces) digests.emplace_back(trace.name, trace.digest);
  return digests;
}

void print_dry_run(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend) {
  Table table({"point", "trace", "method", "layers", "steps", "parameters"});
  for (const ReplayPoint& point : spec.points)
    table.add_row(
        {point.id, spec.traces[point.trace].name, point.method.name, fmt::format("{}", point.layers.size()),
         fmt::format("{}", spec.traces[point.trace].n_steps), parameters_text(point.method.parameters)});
  fmt::print("{}", table.render());
  const SweepEstimate expected = estimate(plan, spec, backend);
  fmt::print("\n{} points on {}\n", spec.points.size(), backend.device_name());
  print_memory(expected, backend);
  print_time_and_output(expected, plan.output);
}

void run(const SweepOptions& options, const CommandLine& line) {
  const SweepPlan plan = load_plan(options.config, method_catalog(), options.overrides());
  const std::unique_ptr<Backend> backend = open_backend(plan.device);
  const ReplaySpec spec = resolve(plan, *backend);
  if (options.dry_run) return print_dry_run(plan, spec, *backend);
  require_memory(plan, spec, *backend);

  const std::optional<Protocol> resume =
      options.resume ? std::optional(protocol_of(plan, *backend)) : std::nullopt;
  ResultWriter writer(plan.output, provenance_of(plan.resolved_yaml, *backend, digests_of(spec)), resume);
  spdlog::info("{} points, {} traces, on {}", spec.points.size(), spec.traces.size(), backend->device_name());
  {
    TerminalObserver observer(!line.quiet);
    run_sweep(plan, spec, *backend, writer, observer);
  }
  spdlog::info("results in {}; see them with: hindsight report {}", plan.output.string(),
               plan.output.string());
}

}  // namespace

void add_run_command(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<SweepOptions>();
  CLI::App* command = app.add_subcommand("run", "run every point of a sweep");
  add_sweep_options(*command, *options);
  command->footer("Example: hindsight run configs/quickstart.yaml --set repeats=5 -o /tmp/quickstart.h5");
  command->callback([options, &line] { line.action = [options, &line] { run(*options, line); }; });
}

}  // namespace hindsight::app
