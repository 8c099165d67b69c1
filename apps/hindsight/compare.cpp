// hindsight compare: the same points of two result files side by side.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "commands.h"
#include "core/error.h"
#include "results/comparison.h"
#include "table_format.h"

namespace hindsight::app {
namespace {

struct CompareOptions {
  std::string a, b, format = "table";
};

void print_comparison(const CompareOptions& options) {
  const ResultReader a(options.a), b(options.b);
  const Comparison comparison = compare(a, b);
  for (const std::string& point : comparison.unmatched) spdlog::warn("{}", point);
  if (comparison.n_other_range > 0)
    spdlog::warn("{} pairs of points were measured over other steps or layers", comparison.n_other_range);
  if (comparison.table.table.rows().empty())
    throw ConfigError(fmt::format("{} and {} share no point: names, parameters and traces must be the same",
                                  options.a, options.b));
  const TableFormat format = table_formats().at(options.format);
  const Table table = is_for_people(format) ? for_people(comparison) : comparison.table.table;
  fmt::print("{}", table.render(format));
}

}  // namespace

void add_compare_command(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command = app.add_subcommand("compare", "the same points of two result files side by side");
  command->add_option("a", options->a, "result file")->required()->type_name("A.h5");
  command->add_option("b", options->b, "result file")->required()->type_name("B.h5");
  command
      ->add_option("--format", options->format, "table and markdown show the key metrics, csv and json all")
      ->check(CLI::IsMember({"table", "csv", "json", "markdown"}));
  command->footer("Example: hindsight compare results/cpu.h5 results/cuda.h5");
  command->callback([options, &line] { line.action = [options] { print_comparison(*options); }; });
}

}  // namespace hindsight::app
