// hindsight merge: the points of several result files in one.

#include <spdlog/spdlog.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "results/merge.h"

namespace hindsight::app {
namespace {

struct MergeOptions {
  std::vector<std::filesystem::path> files;
  std::filesystem::path output;
};

}  // namespace

void add_merge_command(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<MergeOptions>();
  CLI::App* command =
      app.add_subcommand("merge", "the points of several result files, measured in the same way, in one");
  command->add_option("files", options->files, "result files")->required()->type_name("A.h5 B.h5 ...");
  command->add_option("-o,--output", options->output, "result file to write")
      ->required()
      ->type_name("OUT.h5");
  command->footer("Example: hindsight merge results/a.h5 results/b.h5 -o results/all.h5");
  command->callback([options, &line] {
    line.action = [options] {
      const Merged merged = merge_results(options->files, options->output);
      spdlog::info("{} points of {} files in {}", merged.points, options->files.size(),
                   options->output.string());
      if (merged.repeated > 0)
        spdlog::warn("{} points are in several of the files; the first file's is taken", merged.repeated);
    };
  });
}

}  // namespace hindsight::app
