// hindsight report: the summary of a result file.

#include "results/report.h"

#include <fmt/format.h>

#include <map>
#include <memory>

#include "commands.h"
#include "table_format.h"

namespace hindsight::app {
namespace {

struct ReportOptions {
  std::string file, sort, by, format = "table";
};

const std::map<std::string, ReportBy> groupings{{"point", ReportBy::point},
                                                {"method", ReportBy::method},
                                                {"layer", ReportBy::layer},
                                                {"head", ReportBy::head},
                                                {"step", ReportBy::step}};

void print_report(const ReportOptions& options) {
  const ResultReader reader(options.file);
  const ReportBy by = options.by.empty() ? default_grouping(reader) : groupings.at(options.by);
  KeyedTable table = report(reader, by);
  if (!options.sort.empty()) sort_report(table, options.sort);
  const TableFormat format = table_formats().at(options.format);
  fmt::print("{}", is_for_people(format) ? for_people(table, options.sort).render(format)
                                         : table.table.render(format));
}

}  // namespace

void add_report_command(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = app.add_subcommand("report", "the summary of a result file");
  command->add_option("file", options->file, "result file")->required()->type_name("RESULT.h5");
  command->add_option("--sort", options->sort, "sort by this column (of --format csv), ascending")
      ->type_name("COL");
  command
      ->add_option(
          "--by", options->by,
          "a row per point, per method (mean over traces, with 95 % intervals), or per point and layer, "
          "query head or range of steps; default: method if there are several traces, else point")
      ->check(CLI::IsMember({"point", "method", "layer", "head", "step"}));
  command
      ->add_option("--format", options->format, "table and markdown show the key columns, csv and json all")
      ->check(CLI::IsMember({"table", "csv", "json", "markdown"}));
  command->footer("Example: hindsight report results/quickstart.h5 --sort rel_l2_final_mean");
  command->callback([options, &line] { line.action = [options] { print_report(*options); }; });
}

}  // namespace hindsight::app
