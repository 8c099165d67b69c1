#include "results/summary_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

namespace hindsight {
namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

/// Every parameter of the points with a value that stands for "does not apply".
std::map<std::string, Cell> parameter_columns(std::span<const PointResult> points) {
  std::map<std::string, Cell> columns;
  for (const PointResult& point : points)
    for (const auto& [path, value] : point.parameters.values()) {
      if (std::holds_alternative<int64_t>(value)) columns.emplace(path, int64_t{0});
      if (std::holds_alternative<double>(value)) columns.emplace(path, undefined);
      if (std::holds_alternative<std::string>(value)) columns.emplace(path, std::string());
    }
  return columns;
}

std::vector<std::string> metric_columns(std::span<const PointResult> points) {
  std::vector<std::string> columns;
  for (const PointResult& point : points)
    for (const auto& [name, value] : point.summary)
      if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
  return columns;
}

double metric(const PointResult& point, const std::string& name) {
  for (const auto& [column, value] : point.summary)
    if (column == name) return value;
  return undefined;
}

void append_parameters(std::vector<Cell>& row, const std::map<std::string, Cell>& columns,
                       const ParameterSet& parameters) {
  for (const auto& [path, absent] : columns) {
    const auto found = parameters.values().find(path);
    row.push_back(found == parameters.values().end()
                      ? absent
                      : std::visit([](const auto& value) { return Cell(value); }, found->second));
  }
}

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

}  // namespace

Table summary_table(std::span<const PointResult> points) {
  const auto parameters = parameter_columns(points);
  const std::vector<std::string> metrics = metric_columns(points);
  std::vector<std::string> columns{"point", "trace", "name", "selector"};
  for (const auto& [path, absent] : parameters) columns.push_back(path);
  columns.insert(columns.end(), metrics.begin(), metrics.end());
  Table table(columns);
  for (const PointResult& point : points) {
    std::vector<Cell> row{point.id, point.trace, point.name, point.selector};
    append_parameters(row, parameters, point.parameters);
    for (const std::string& name : metrics) row.emplace_back(metric(point, name));
    table.add_row(std::move(row));
  }
  return table;
}

Table summary_over_traces(std::span<const PointResult> points) {
  const auto parameters = parameter_columns(points);
  const std::vector<std::string> metrics = metric_columns(points);
  std::vector<std::string> columns{"name", "selector"};
  for (const auto& [path, absent] : parameters) columns.push_back(path);
  columns.push_back("n_traces");
  for (const std::string& name : metrics) {
    columns.push_back(name);
    columns.push_back(name + "_ci95");
  }
  Table table(columns);
  std::vector<bool> taken(points.size(), false);
  for (size_t i = 0; i < points.size(); ++i) {
    if (taken[i]) continue;
    std::vector<const PointResult*> group;
    for (size_t j = i; j < points.size(); ++j) {
      if (points[j].name != points[i].name || points[j].selector != points[i].selector ||
          points[j].parameters != points[i].parameters)
        continue;
      taken[j] = true;
      group.push_back(&points[j]);
    }
    std::vector<Cell> row{points[i].name, points[i].selector};
    append_parameters(row, parameters, points[i].parameters);
    row.emplace_back(static_cast<int64_t>(group.size()));
    for (const std::string& name : metrics) {
      std::vector<double> values;
      for (const PointResult* point : group)
        if (const double value = metric(*point, name); !std::isnan(value)) values.push_back(value);
      const auto n = static_cast<double>(values.size());
      double mean = 0, squares = 0;
      for (const double value : values) mean += value / n;
      for (const double value : values) squares += (value - mean) * (value - mean);
      row.emplace_back(values.empty() ? undefined : mean);
      row.emplace_back(values.size() < 2 ? undefined
                                         : student_t(values.size() - 1) * std::sqrt(squares / (n - 1) / n));
    }
    table.add_row(std::move(row));
  }
  return table;
}

void write_table(hid_t at, const std::string& name, const Table& table) {
  const size_t n_columns = table.columns().size();
  std::vector<size_t> offsets, sizes;
  std::vector<size_t> kinds(n_columns, 2);  // as in Cell; a column without rows is float64
  size_t row_bytes = 0;
  for (size_t c = 0; c < n_columns; ++c) {
    size_t length = 1;
    for (const auto& row : table.rows()) {
      kinds[c] = row[c].index();
      if (const auto* text = std::get_if<std::string>(&row[c])) length = std::max(length, text->size());
    }
    offsets.push_back(row_bytes);
    sizes.push_back(kinds[c] == 0 ? length : 8);
    row_bytes += sizes.back();
  }
  const h5::Id type(H5Tcreate(H5T_COMPOUND, row_bytes), "make the type of " + name);
  for (size_t c = 0; c < n_columns; ++c) {
    const h5::Id text = h5::fixed_string_type(sizes[c]);
    const hid_t member = kinds[c] == 0   ? static_cast<hid_t>(text)
                         : kinds[c] == 1 ? H5T_NATIVE_INT64
                                         : H5T_NATIVE_DOUBLE;
    h5::check(H5Tinsert(type, table.columns()[c].c_str(), offsets[c], member), "make the type of " + name);
  }
  std::vector<char> packed(row_bytes * table.rows().size(), '\0');
  for (size_t r = 0; r < table.rows().size(); ++r)
    for (size_t c = 0; c < n_columns; ++c) {
      char* target = packed.data() + r * row_bytes + offsets[c];
      const Cell& cell = table.rows()[r][c];
      if (const auto* text = std::get_if<std::string>(&cell)) text->copy(target, sizes[c]);
      if (const auto* number = std::get_if<int64_t>(&cell)) std::memcpy(target, number, 8);
      if (const auto* value = std::get_if<double>(&cell)) std::memcpy(target, value, 8);
    }
  const h5::Id dataset = h5::create_dataset(at, name, type, {static_cast<int64_t>(table.rows().size())});
  h5::write_all(dataset, type, packed.data());
}

}  // namespace hindsight
