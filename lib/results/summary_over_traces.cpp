#include "results/summary_over_traces.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/statistics.h"
#include "results/metric_values.h"
#include "results/summary_table.h"

namespace hindsight {
namespace {

/// 0.975 quantile of Student's t distribution.
double student_t(size_t degrees) {
  static constexpr std::array<double, 30> table{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                                2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                                                2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                                                2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
  if (degrees <= table.size()) return table[degrees - 1];
  // Cornish-Fisher around the normal quantile; within 1e-3 from 31 degrees on.
  const double z = 1.959964, v = static_cast<double>(degrees);
  return z + (z * z * z + z) / (4 * v) + (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * v * v);
}

/// Mean and half-width of its interval.
std::pair<Cell, Cell> mean_and_interval(const std::vector<double>& values) {
  if (values.empty()) return {undefined_cell(), undefined_cell()};
  const auto n = static_cast<double>(values.size());
  const double center = mean(values);
  if (values.size() < 2) return {center, undefined_cell()};
  double squares = 0;
  for (const double value : values) squares += (value - center) * (value - center);
  return {center, student_t(values.size() - 1) * std::sqrt(squares / (n - 1) / n)};
}

/// "2 3 5".
std::string layers_of(const PointResult& point) {
  for (const Coordinate& coordinate : point.coordinates)
    if (const auto* layers = std::get_if<std::vector<int64_t>>(&coordinate.values);
        layers && coordinate.name == "layer")
      return fmt::format("{}", fmt::join(*layers, " "));
  return "";
}

/// Points that differ in the trace alone, one of each trace: another point of a trace is no further sample.
struct TraceGroup {
  std::string layers;
  std::vector<const PointResult*> points;

  bool takes(const PointResult& point, const std::string& its_layers) const {
    const PointResult& first = *points.front();
    return point.name == first.name && point.selector == first.selector &&
           point.parameters == first.parameters && point.steps == first.steps && its_layers == layers;
  }
  bool has_trace(const std::string& digest) const {
    return std::any_of(points.begin(), points.end(),
                       [&](const PointResult* point) { return point->trace_digest == digest; });
  }
  bool is_batched() const {
    return std::any_of(points.begin(), points.end(),
                       [](const PointResult* point) { return point->protocol.batch > 1; });
  }
};

std::vector<TraceGroup> group_by_all_but_the_trace(std::span<const PointResult> points) {
  std::vector<TraceGroup> groups;
  for (const PointResult& point : points) {
    const std::string layers = layers_of(point);
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const TraceGroup& candidate) {
      return candidate.takes(point, layers);
    });
    if (group == groups.end())
      groups.push_back({layers, {&point}});
    else if (!group->has_trace(point.trace_digest))
      group->points.push_back(&point);
  }
  return groups;
}

}  // namespace

KeyedTable summary_over_traces(std::span<const PointResult> points) {
  const PointKeys keys(points);
  const std::vector<std::string> metrics = names_of(summaries_of(points));
  std::vector<std::string> columns{"name", "selector"};
  columns.insert(columns.end(), keys.parameters().begin(), keys.parameters().end());
  columns.insert(columns.end(), {"steps", "layers", "n_traces"});
  const size_t n_keys = columns.size();
  for (const std::string& name : metrics) {
    columns.push_back(name);
    columns.push_back(name + "_ci95");
  }
  Table table(std::move(columns));

  for (const TraceGroup& group : group_by_all_but_the_trace(points)) {
    const PointResult& first = *group.points.front();
    std::vector<Cell> row{first.name, first.selector};
    for (Cell& cell : keys.parameter_cells(first)) row.push_back(std::move(cell));
    row.emplace_back(first.steps);
    row.emplace_back(group.layers);
    row.emplace_back(static_cast<int64_t>(group.points.size()));
    for (const std::string& name : metrics) {
      std::vector<double> values;
      for (const PointResult* point : group.points)
        if (const auto value = defined_value(point->summary, name)) values.push_back(*value);
      auto [mean, interval] = mean_and_interval(values);
      const bool is_latency = name.starts_with("latency_");
      row.push_back(std::move(mean));
      row.push_back(is_latency && group.is_batched() ? undefined_cell() : std::move(interval));
    }
    table.add_row(std::move(row));
  }
  return {std::move(table), n_keys};
}

}  // namespace hindsight
