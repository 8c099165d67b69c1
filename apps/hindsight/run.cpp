// hindsight run: every point of a sweep, or with --dry-run what it would be.

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "commands.h"
#include "config/sweep_plan.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/version.h"
#include "methods/catalog.h"
#include "progress.h"
#include "replay/sweep.h"
#include "results/table.h"

namespace hindsight::app {
namespace {

struct RunOptions {
  std::string config;
  std::string output, device;
  std::vector<std::string> set;
  bool resume = false, dry_run = false;
};

/// auto | cpu | cuda | cuda:N, checked by load_plan.
std::unique_ptr<Backend> open_backend(const std::string& device) {
  if (device == "cpu") return make_cpu_backend();
  if (device == "auto") return cuda_device_count() > 0 ? make_cuda_backend(0) : make_cpu_backend();
  return make_cuda_backend(device == "cuda" ? 0 : std::stoi(device.substr(device.find(':') + 1)));
}

std::string host_name() {
  char name[256] = "unknown";
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

Provenance provenance_of(const SweepPlan& plan, const ReplaySpec& spec, const Backend& backend) {
  Provenance provenance;
  provenance.resolved_yaml = plan.resolved_yaml;
  provenance.program_version = program_version();
  provenance.git_revision = git_revision();
  provenance.host = host_name();
  provenance.device = backend.device_name();
  provenance.driver = backend.driver();
  provenance.date = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  for (const ReplayTrace& trace : spec.traces)
    provenance.trace_digests.emplace_back(trace.name, trace.digest);
  return provenance;
}

std::string parameters_text(const ParameterSet& parameters) {
  std::string text;
  for (const auto& [path, value] : parameters.values()) {
    if (!text.empty()) text += ", ";
    text += path + "=" + std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
  }
  return text;
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
  fmt::print("peak memory   {} (estimated)\n", format_bytes(static_cast<double>(expected.host_bytes)));
  if (expected.device_bytes > 0)
    fmt::print("device memory {} (estimated), {} available\n",
               format_bytes(static_cast<double>(expected.device_bytes)),
               format_bytes(static_cast<double>(backend.available_bytes())));
  fmt::print("time          {} (estimated)\n", format_duration(expected.seconds));
  fmt::print("output        {}, up to {}\n", plan.output.string(),
             format_bytes(static_cast<double>(expected.output_bytes)));
}

class TerminalObserver final : public SweepObserver {
 public:
  explicit TerminalObserver(bool enabled) : bar_(enabled) {}
  void on_progress(double done, double total, const std::string& label) override {
    bar_.update(done, total, label);
  }
  void check_interrupt() override { throw_if_interrupted(); }

 private:
  ProgressBar bar_;
};

void run(const RunOptions& options, const CommandLine& line) {
  PlanOverrides overrides;
  overrides.set = options.set;
  if (!options.output.empty()) overrides.output = options.output;
  if (!options.device.empty()) overrides.device = options.device;
  const SweepPlan plan = load_plan(options.config, method_catalog(), overrides);
  const std::unique_ptr<Backend> backend = open_backend(plan.device);
  const ReplaySpec spec = resolve(plan, *backend);
  if (options.dry_run) return print_dry_run(plan, spec, *backend);
  require_memory(plan, spec, *backend);

  const std::optional<Protocol> resume =
      options.resume ? std::optional(protocol_of(plan, *backend)) : std::nullopt;
  ResultWriter writer(plan.output, provenance_of(plan, spec, *backend), resume);
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
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "run every point of a sweep");
  command->add_option("config", options->config, "configuration (YAML)")
      ->required()
      ->type_name("CONFIG.yaml");
  command->add_option("-o,--output", options->output, "result file, instead of the configuration's")
      ->type_name("FILE");
  command
      ->add_option("--set", options->set,
                   "override one value, e.g. methods.retro.budget.ratio=0.1; may be repeated")
      ->type_name("PATH=VALUE")
      ->expected(1)
      ->take_all();
  command->add_option("--device", options->device, "auto, cpu, cuda or cuda:N")->type_name("DEVICE");
  command->add_flag("--resume", options->resume, "keep the finished points of the result file");
  command->add_flag("--dry-run", options->dry_run, "show the points, and the memory and time expected");
  command->footer("Example: hindsight run configs/quickstart.yaml --set repeats=5 -o /tmp/quickstart.h5");
  command->callback([options, &line] { line.action = [options, &line] { run(*options, line); }; });
}

}  // namespace hindsight::app
