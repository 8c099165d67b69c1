#include "results/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "config/nearest_name.h"
#include "core/error.h"
#include "results/dimension_means.h"
#include "results/key_metrics.h"
#include "results/reduced_table.h"
#include "results/summary_over_traces.h"
#include "results/summary_table.h"

namespace hindsight {
namespace {

/// Series are read a point at a time: those of all points need not fit in memory.
KeyedTable report_along(const ResultReader& results, Along along) {
  const PointKeys keys(results.read_all());
  std::vector<std::vector<Cell>> key_rows;
  std::vector<MetricValues> means;
  for (const std::string& id : results.point_ids()) {
    const PointResult point = results.read(id, true);
    for (DimensionMean& mean : dimension_means(point, along)) {
      auto& cells = key_rows.emplace_back(keys.cells(point));
      cells.insert(cells.end(), mean.label.begin(), mean.label.end());
      means.push_back(std::move(mean.means));
    }
  }
  std::vector<std::string> columns = keys.columns();
  const std::vector<std::string> labels = label_columns(along);
  columns.insert(columns.end(), labels.begin(), labels.end());
  if (means.empty())
    throw ConfigError(fmt::format("{}: no series has the dimension {}; report by point instead",
                                  results.file().string(), labels.front()));
  return join_metrics(std::move(columns), std::move(key_rows), means);
}

}  // namespace

ReportBy default_grouping(const ResultReader& results) {
  std::set<std::string> traces;
  for (const PointResult& point : results.read_all()) traces.insert(point.trace_digest);
  return traces.size() > 1 ? ReportBy::method : ReportBy::point;
}

KeyedTable report(const ResultReader& results, ReportBy by) {
  switch (by) {
    case ReportBy::method:
      return summary_over_traces(results.read_all());
    case ReportBy::layer:
      return report_along(results, Along::layer);
    case ReportBy::head:
      return report_along(results, Along::head);
    case ReportBy::step:
      return report_along(results, Along::step);
    case ReportBy::point:
      break;
  }
  return summary_table(results.read_all());
}

void sort_report(KeyedTable& report, const std::string& column) {
  const std::vector<std::string>& columns = report.table.columns();
  if (std::find(columns.begin(), columns.end(), column) == columns.end())
    throw ConfigError(
        fmt::format("--sort {}: no such column; did you mean {}?", column, nearest_name(column, columns)));
  report.table.sort_by(column);
}

Table for_people(const KeyedTable& report, const std::string& also) {
  const size_t after_the_others = report.table.columns().size();
  return reduce(report, [&](const std::string& column) {
    const auto rank = key_metric_rank(column);
    return rank || column != also ? rank : std::optional(after_the_others);
  });
}

}  // namespace hindsight
