#include "sweep_session.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <utility>

#include "core/interrupt.h"
#include "core/version.h"

namespace hindsight::app {
namespace {

std::string host_name() {
  char name[256] = "unknown";
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

}  // namespace

PlanOverrides SweepOptions::overrides() const {
  PlanOverrides overrides;
  overrides.set = set;
  if (!output.empty()) overrides.output = output;
  if (!device.empty()) overrides.device = device;
  return overrides;
}

void add_sweep_options(CLI::App& command, SweepOptions& options) {
  command.add_option("config", options.config, "configuration (YAML)")->required()->type_name("CONFIG.yaml");
  command.add_option("-o,--output", options.output, "result file, instead of the configuration's")
      ->type_name("FILE");
  command
      .add_option("--set", options.set,
                  "override one value, e.g. methods.retro.budget.ratio=0.1; may be repeated")
      ->type_name("PATH=VALUE")
      ->expected(1)
      ->take_all();
  command.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->type_name("DEVICE");
  command.add_flag("--resume", options.resume, "keep the finished points of the result file");
  command.add_flag("--dry-run", options.dry_run, "show the points and what they would take");
}

std::unique_ptr<Backend> open_backend(const std::string& device) {
  if (device == "cpu") return make_cpu_backend();
  if (device == "auto") return cuda_device_count() > 0 ? make_cuda_backend(0) : make_cpu_backend();
  return make_cuda_backend(device == "cuda" ? 0 : std::stoi(device.substr(device.find(':') + 1)));
}

Provenance provenance_of(const std::string& resolved_yaml, const Backend& backend,
                         std::vector<std::pair<std::string, std::string>> digests) {
  Provenance provenance;
  provenance.resolved_yaml = resolved_yaml;
  provenance.program_version = program_version();
  provenance.git_revision = git_revision();
  provenance.host = host_name();
  provenance.device = backend.device_name();
  provenance.driver = backend.driver();
  provenance.date = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  provenance.trace_digests = std::move(digests);
  return provenance;
}

std::string parameters_text(const ParameterSet& parameters) {
  std::string text;
  for (const auto& [path, value] : parameters.values()) {
    if (!text.empty()) text += ", ";
    text += path + "=" + text_of(value);
  }
  return text;
}

void print_memory(const SweepEstimate& expected, const Backend& backend) {
  fmt::print("peak memory   {} (estimated)\n", format_bytes(static_cast<double>(expected.host_bytes)));
  if (expected.device_bytes > 0)
    fmt::print("device memory {} (estimated), {} available\n",
               format_bytes(static_cast<double>(expected.device_bytes)),
               format_bytes(static_cast<double>(backend.available_bytes())));
}

void print_time_and_output(const SweepEstimate& expected, const std::filesystem::path& output) {
  fmt::print("time          {} (estimated)\n", format_duration(expected.seconds));
  fmt::print("output        {}, up to {}\n", output.string(),
             format_bytes(static_cast<double>(expected.output_bytes)));
}

void TerminalObserver::check_interrupt() { throw_if_interrupted(); }

}  // namespace hindsight::app
