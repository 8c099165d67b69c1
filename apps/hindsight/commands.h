#pragma once
// The subcommands, one file each. A command parses its options and, when chosen, sets CommandLine::action;
// main runs it, prints the error if there is one, and exits with its status. Results go to files, tables to
// stdout, everything else to stderr.

#include <CLI/CLI.hpp>
#include <functional>

namespace hindsight::app {

struct CommandLine {
  bool quiet = false;    ///< no progress, no log; errors are still shown
  bool verbose = false;  ///< more log
  std::function<void()> action;
};

/// Each adds its subcommand (with help and an example) to `app`. `line` outlives the parse.
void add_run_command(CLI::App& app, CommandLine& line);
void add_eval_command(CLI::App& app, CommandLine& line);
void add_report_command(CLI::App& app, CommandLine& line);
void add_compare_command(CLI::App& app, CommandLine& line);
void add_merge_command(CLI::App& app, CommandLine& line);
void add_trace_command(CLI::App& app, CommandLine& line);
/// Below `hindsight trace`.
void add_capture_command(CLI::App& trace, CommandLine& line);
void add_methods_command(CLI::App& app, CommandLine& line);
void add_version_command(CLI::App& app, CommandLine& line);

}  // namespace hindsight::app
