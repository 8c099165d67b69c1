// hindsight: the command line. Here alone errors are printed and the exit status is chosen.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <sstream>
#include <string>

#include "commands.h"
#include "config/nearest_name.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/version.h"

namespace {

using hindsight::ExitStatus;

/// Programs are built for a baseline of processors; an older one would end in an illegal instruction.
bool processor_is_able() {
#if defined(__x86_64__) && defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

/// Blocks of megabytes go back to the system when they are freed, and threads share their arenas. Without a
/// fixed threshold the allocator keeps blocks after their first use, and every thread keeps what it freed:
/// the peak would depend on how they happen to fit and on the threads. --dry-run states it.
void keep_little_free_memory() {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
#endif
#ifdef M_ARENA_MAX
  mallopt(M_ARENA_MAX, 2);
#endif
}

int fail(ExitStatus status, const std::string& message) {
  std::istringstream lines(message);
  for (std::string line; std::getline(lines, line);) fmt::print(stderr, "hindsight: error: {}\n", line);
  return static_cast<int>(status);
}

void set_up_log(const hindsight::app::CommandLine& line) {
  const bool colours = std::getenv("NO_COLOR") == nullptr;
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(colours ? spdlog::color_mode::automatic
                                                                            : spdlog::color_mode::never);
  auto logger = std::make_shared<spdlog::logger>("hindsight", sink);
  logger->set_pattern("hindsight: %v");
  logger->set_level(line.quiet     ? spdlog::level::err
                    : line.verbose ? spdlog::level::debug
                                   : spdlog::level::info);
  spdlog::set_default_logger(logger);
}

/// The command as far as it was understood: with `hindsight trace synth --sedd 1`, that of `synth`.
const CLI::App& innermost(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? app : innermost(*parsed.front());
}

std::string full_name(const CLI::App& command) {
  return command.get_parent() == nullptr ? command.get_name()
                                         : full_name(*command.get_parent()) + " " + command.get_name();
}

/// The option of the command, or of those around it, that a misspelt one comes nearest to.
std::string nearest_option(const CLI::App& command, const std::string& misspelt) {
  std::vector<std::string> known;
  for (const CLI::App* app = &command; app != nullptr; app = app->get_parent())
    for (const CLI::Option* option : app->get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  return hindsight::nearest_name(misspelt.substr(0, misspelt.find('=')), known);
}

/// CLI11 asks for a subcommand even where there is one that it does not know, and suggests nothing.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = innermost(app);
  std::vector<std::string> known;
  for (const CLI::App* subcommand : command.get_subcommands([](const CLI::App*) { return true; }))
    known.push_back(subcommand->get_name());
  std::string wrong = error.what();
  const std::vector<std::string> unknown = app.remaining(true);
  if (!unknown.empty() && unknown.front().rfind("--", 0) == 0)
    wrong = fmt::format("unknown option {}, did you mean {}?", unknown.front(),
                        nearest_option(command, unknown.front()));
  else if (!known.empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    if (unknown.empty())
      wrong = fmt::format("a subcommand is required: {}", fmt::join(known, ", "));
    else if (unknown.front().front() == '-')
      wrong = fmt::format("unknown option {}", unknown.front());
    else
      wrong = fmt::format("unknown subcommand {}, did you mean {}?", unknown.front(),
                          hindsight::nearest_name(unknown.front(), known));
  }
  return fmt::format("{}; see {} --help", wrong, full_name(command));
}

/// Tables are buffered: a full disk behind a redirection shows here at the latest.
void flush_tables() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw hindsight::EnvironmentError(fmt::format("standard output: not writable: {}", std::strerror(errno)));
}

}  // namespace

int main(int argc, char** argv) {
  keep_little_free_memory();
  if (!processor_is_able())
    return fail(
        ExitStatus::environment,
        "this build needs a processor with AVX2 and FMA; build with -DHINDSIGHT_CPU_ARCH= for any other");
  hindsight::app::CommandLine line;
  CLI::App app{"hindsight: the open workbench for sparse decoding attention", "hindsight"};
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--quiet", line.quiet, "no progress and no log; errors are shown all the same");
  app.add_flag("--verbose", line.verbose, "more log");
  app.set_version_flag("--version", hindsight::program_version());
  app.footer("Example: hindsight run configs/quickstart.yaml && hindsight report results/quickstart.h5");
  hindsight::app::add_run_command(app, line);
  hindsight::app::add_eval_command(app, line);
  hindsight::app::add_report_command(app, line);
  hindsight::app::add_compare_command(app, line);
  hindsight::app::add_merge_command(app, line);
  hindsight::app::add_trace_command(app, line);
  hindsight::app::add_methods_command(app, line);
  hindsight::app::add_version_command(app, line);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return fail(ExitStatus::usage, usage_error(app, error));
  }
  try {
    set_up_log(line);
    hindsight::install_interrupt_handlers();
    if (line.action) line.action();
    flush_tables();
    return static_cast<int>(ExitStatus::ok);
  } catch (const hindsight::Error& error) {
    return fail(error.exit_status(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ExitStatus::environment, "out of memory; see --dry-run for what a sweep needs");
  } catch (const std::exception& error) {
    return fail(ExitStatus::environment, fmt::format("unexpected: {}", error.what()));
  }
}
