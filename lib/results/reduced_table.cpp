#include "results/reduced_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

namespace hindsight {
namespace {

bool varies(const Table& table, size_t column) {
  std::set<Cell> values;
  for (const auto& row : table.rows())
    if (!is_undefined(row[column])) values.insert(row[column]);
  return values.size() > 1;
}

bool is_defined_anywhere(const Table& table, size_t column) {
  return std::any_of(table.rows().begin(), table.rows().end(),
                     [&](const auto& row) { return !is_undefined(row[column]); });
}

/// Keys that say what the table is about, even where there is but one of each.
bool is_always_shown(const std::string& key) {
  static constexpr std::array<const char*, 7> names{"name",      "n_traces", "layer", "q_head",
                                                    "step_from", "step_to",  "metric"};
  return std::find(names.begin(), names.end(), key) != names.end();
}

/// Whether two rows have the same text in all of these columns.
bool rows_are_alike(const Table& table, const std::vector<size_t>& columns) {
  std::set<std::vector<std::string>> seen;
  for (const auto& row : table.rows()) {
    std::vector<std::string> texts;
    for (const size_t column : columns) texts.push_back(cell_text(row[column]));
    if (!seen.insert(std::move(texts)).second) return true;
  }
  return false;
}

std::vector<size_t> columns_to_show(const KeyedTable& keyed, const ColumnRank& rank) {
  const Table& table = keyed.table;
  std::vector<size_t> shown;
  const bool has_point = keyed.n_keys > 0 && table.columns().front() == "point";
  for (size_t c = has_point ? 1 : 0; c < keyed.n_keys; ++c) {
    const std::string& key = table.columns()[c];
    if (rank(key) || is_always_shown(key) || (key != "selector" && varies(table, c))) shown.push_back(c);
  }
  if (has_point && (rank("point") || rows_are_alike(table, shown))) shown.insert(shown.begin(), 0);
  std::vector<std::pair<size_t, size_t>> measured;  // rank, column
  for (size_t c = keyed.n_keys; c < table.columns().size(); ++c)
    if (const auto place = rank(table.columns()[c]); place && is_defined_anywhere(table, c))
      measured.emplace_back(*place, c);
  std::sort(measured.begin(), measured.end());
  for (const auto& [place, column] : measured) shown.push_back(column);
  return shown;
}

/// The end of a path, in whole components, that no other path has.
std::string shortest_ending(const std::string& path, const std::set<std::string>& paths) {
  for (size_t slash = path.rfind('/'); slash != std::string::npos && slash > 0;
       slash = path.rfind('/', slash - 1)) {
    const bool shared = std::any_of(paths.begin(), paths.end(), [&](const std::string& other) {
      return other != path && ("/" + other).ends_with(path.substr(slash));
    });
    if (!shared) return path.substr(slash + 1);
  }
  return path;
}

std::set<std::string> texts_of(const Table& table, const std::string& column) {
  const auto found = std::find(table.columns().begin(), table.columns().end(), column);
  std::set<std::string> texts;
  if (found == table.columns().end()) return texts;
  for (const auto& row : table.rows())
    texts.insert(cell_text(row[static_cast<size_t>(found - table.columns().begin())]));
  return texts;
}

/// "0.441±0.1": as many digits as the eye compares.
std::string with_interval(double mean, double interval) {
  return fmt::format("{:.3g}±{:.1g}", mean, interval);
}

/// The interval of the mean in `column`, where there is one.
std::optional<double> interval_of(const Table& table, const std::vector<Cell>& row, size_t column) {
  const size_t next = column + 1;
  if (next >= row.size() || table.columns()[next] != table.columns()[column] + "_ci95" ||
      is_undefined(row[next]))
    return std::nullopt;
  return std::get<double>(row[next]);
}

}  // namespace

Table reduce(const KeyedTable& keyed, const ColumnRank& rank) {
  const Table& table = keyed.table;
  const std::vector<size_t> shown = columns_to_show(keyed, rank);
  std::vector<std::string> columns;
  for (const size_t column : shown) columns.push_back(table.columns()[column]);
  Table reduced(std::move(columns));
  const std::set<std::string> traces = texts_of(table, "trace");
  for (const auto& row : table.rows()) {
    std::vector<Cell> cells;
    for (const size_t column : shown) {
      if (const auto interval = interval_of(table, row, column))
        cells.emplace_back(with_interval(std::get<double>(row[column]), *interval));
      else if (table.columns()[column] == "trace")
        cells.emplace_back(shortest_ending(cell_text(row[column]), traces));
      else
        cells.push_back(row[column]);
    }
    reduced.add_row(std::move(cells));
  }
  return reduced;
}

}  // namespace hindsight
