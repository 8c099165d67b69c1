#include "results/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "results/key_metrics.h"
#include "results/metric_values.h"
#include "results/reduced_table.h"
#include "results/summary_table.h"

namespace hindsight {
namespace {

bool is_same_point(const PointResult& a, const PointResult& b) {
  return a.name == b.name && a.selector == b.selector && a.parameters == b.parameters &&
         a.trace_digest == b.trace_digest;
}

/// The index in `points` of the same point that is not `taken`: rather that of the same id (a file may hold
/// a method over several ranges of steps).
std::optional<size_t> find_same(const PointResult& wanted, const std::vector<PointResult>& points,
                                const std::vector<bool>& taken) {
  std::optional<size_t> found;
  for (size_t i = 0; i < points.size(); ++i) {
    if (taken[i] || !is_same_point(wanted, points[i])) continue;
    if (points[i].id == wanted.id) return i;
    if (!found) found = i;
  }
  return found;
}

std::string unmatched_line(const ResultReader& in, const PointResult& point) {
  return fmt::format("only in {}: point {} ({}, {})", in.file().string(), point.id, point.name, point.trace);
}

Cell as_cell(std::optional<double> value) { return value ? Cell(*value) : undefined_cell(); }

}  // namespace

Comparison compare(const ResultReader& a, const ResultReader& b) {
  const std::vector<PointResult> points_a = a.read_all(), points_b = b.read_all();
  const PointKeys keys(points_a);
  std::vector<std::string> columns = keys.columns();
  columns.push_back("metric");
  const size_t n_keys = columns.size();
  columns.insert(columns.end(), {"a", "b", "difference", "ratio"});
  Comparison comparison{{Table(std::move(columns)), n_keys}, {}, 0};

  std::vector<bool> taken(points_b.size(), false);
  for (const PointResult& in_a : points_a) {
    const auto match = find_same(in_a, points_b, taken);
    if (!match) {
      comparison.unmatched.push_back(unmatched_line(a, in_a));
      continue;
    }
    taken[*match] = true;
    const PointResult& in_b = points_b[*match];
    if (in_a.id != in_b.id) ++comparison.n_other_range;
    for (const std::string& metric : names_of(std::array{in_a.summary, in_b.summary})) {
      const auto x = defined_value(in_a.summary, metric), y = defined_value(in_b.summary, metric);
      if (!x && !y) continue;
      std::vector<Cell> row = keys.cells(in_a);
      row.emplace_back(metric);
      row.push_back(as_cell(x));
      row.push_back(as_cell(y));
      row.push_back(x && y ? Cell(*y - *x) : undefined_cell());
      row.push_back(x && y && *x != 0 ? Cell(*y / *x) : undefined_cell());
      comparison.table.table.add_row(std::move(row));
    }
  }
  for (size_t i = 0; i < points_b.size(); ++i)
    if (!taken[i]) comparison.unmatched.push_back(unmatched_line(b, points_b[i]));
  return comparison;
}

Table for_people(const Comparison& comparison) {
  const Table& table = comparison.table.table;
  const size_t n_keys = comparison.table.n_keys;
  KeyedTable key_rows{Table(table.columns()), n_keys};
  for (const auto& row : table.rows())
    if (key_metric_rank(cell_text(row[n_keys - 1]))) key_rows.table.add_row(row);
  // The last key names the metric; all that follows is of it.
  return reduce(key_rows, [&](const std::string& column) -> std::optional<size_t> {
    const auto& columns = table.columns();
    const auto measured = columns.begin() + static_cast<std::ptrdiff_t>(n_keys);
    const auto found = std::find(measured, columns.end(), column);
    if (found == columns.end()) return std::nullopt;
    return static_cast<size_t>(found - measured);
  });
}

}  // namespace hindsight
