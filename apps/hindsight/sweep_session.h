#pragma once
// What the commands that run a sweep share: options, backend, provenance, progress.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/sweep_estimate.h"
#include "config/sweep_plan.h"
#include "core/sweep_observer.h"
#include "progress.h"
#include "results/result_store.h"

namespace hindsight::app {

struct SweepOptions {
  std::string config;
  std::string output, device;
  std::vector<std::string> set;
  bool resume = false, dry_run = false;

  PlanOverrides overrides() const;
};

/// CONFIG.yaml, -o, --set, --device, --resume, --dry-run.
void add_sweep_options(CLI::App& command, SweepOptions& options);

/// auto | cpu | cuda | cuda:N, checked when the configuration was read.
std::unique_ptr<Backend> open_backend(const std::string& device);

/// Program, host, device and date; `digests` are (name, SHA-256) of what was read.
Provenance provenance_of(const std::string& resolved_yaml, const Backend& backend,
                         std::vector<std::pair<std::string, std::string>> digests);

/// "budget.ratio=0.1, page_size=16".
std::string parameters_text(const ParameterSet& parameters);

/// What a dry run says of a sweep.
void print_memory(const SweepEstimate& expected, const Backend& backend);
void print_time_and_output(const SweepEstimate& expected, const std::filesystem::path& output);

class TerminalObserver final : public SweepObserver {
 public:
  explicit TerminalObserver(bool enabled) : bar_(enabled) {}
  void on_progress(double done, double total, const std::string& label) override {
    bar_.update(done, total, label);
  }
  void check_interrupt() override;

 private:
  ProgressBar bar_;
};

}  // namespace hindsight::app
