#include "results/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace hindsight {
namespace {

std::string for_people(const Cell& cell) {
  if (const auto* text = std::get_if<std::string>(&cell)) return *text;
  if (const auto* number = std::get_if<int64_t>(&cell)) return fmt::format("{}", *number);
  const double value = std::get<double>(cell);
  if (std::isnan(value)) return "-";
  // Large counts (bytes) are easier to compare in full than as powers of ten.
  return std::abs(value) >= 1e4 && std::abs(value) < 1e15 ? fmt::format("{:.0f}", value)
                                                          : fmt::format("{:.4g}", value);
}

std::string for_csv(const Cell& cell) {
  if (const auto* number = std::get_if<int64_t>(&cell)) return fmt::format("{}", *number);
  if (const auto* value = std::get_if<double>(&cell))
    return std::isnan(*value) ? "" : fmt::format("{}", *value);
  const auto& text = std::get<std::string>(cell);
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

nlohmann::ordered_json for_json(const Cell& cell) {
  return std::visit([](const auto& value) { return nlohmann::ordered_json(value); }, cell);
}

std::string aligned(const std::vector<std::string>& columns, const std::vector<std::vector<Cell>>& rows,
                    bool markdown) {
  std::vector<size_t> widths;
  std::vector<bool> numeric(columns.size(), !rows.empty());
  for (const std::string& column : columns) widths.push_back(column.size());
  std::vector<std::vector<std::string>> texts;
  for (const auto& row : rows) {
    auto& line = texts.emplace_back();
    for (size_t c = 0; c < row.size(); ++c) {
      line.push_back(for_people(row[c]));
      widths[c] = std::max(widths[c], line.back().size());
      if (std::holds_alternative<std::string>(row[c])) numeric[c] = false;
    }
  }
  const auto line_of = [&](const std::vector<std::string>& cells) {
    std::string line = markdown ? "|" : "";
    for (size_t c = 0; c < cells.size(); ++c) {
      line += markdown ? " " : c == 0 ? "" : "  ";
      line += numeric[c] ? fmt::format("{:>{}}", cells[c], widths[c])
                         : fmt::format("{:<{}}", cells[c], widths[c]);
      if (markdown) line += " |";
    }
    if (!markdown) line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
  };
  std::string text = line_of(columns);
  std::vector<std::string> rule;
  for (size_t c = 0; c < columns.size(); ++c)
    rule.push_back(markdown && numeric[c] ? std::string(widths[c] - 1, '-') + ":"
                                          : std::string(widths[c], '-'));
  text += line_of(rule);
  for (const auto& line : texts) text += line_of(line);
  return text;
}

bool is_undefined(const Cell& cell) {
  const auto* value = std::get_if<double>(&cell);
  return value && std::isnan(*value);
}

}  // namespace

void Table::add_row(std::vector<Cell> cells) {
  if (cells.size() != columns_.size()) throw std::invalid_argument("a row needs a cell for every column");
  rows_.push_back(std::move(cells));
}

void Table::sort_by(const std::string& column) {
  const auto found = std::find(columns_.begin(), columns_.end(), column);
  if (found == columns_.end()) throw std::out_of_range("no column " + column);
  const auto at = static_cast<size_t>(found - columns_.begin());
  std::stable_sort(rows_.begin(), rows_.end(), [at](const auto& a, const auto& b) {
    if (is_undefined(a[at]) || is_undefined(b[at])) return !is_undefined(a[at]) && is_undefined(b[at]);
    return a[at] < b[at];
  });
}

std::string Table::render(TableFormat format) const {
  if (format == TableFormat::json) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const auto& row : rows_) {
      nlohmann::ordered_json object = nlohmann::ordered_json::object();
      for (size_t c = 0; c < row.size(); ++c) object[columns_[c]] = for_json(row[c]);
      rows.push_back(std::move(object));
    }
    return rows.dump(2) + "\n";
  }
  if (format == TableFormat::csv) {
    std::vector<std::string> header;
    for (const std::string& column : columns_) header.push_back(for_csv(column));
    std::string text = fmt::format("{}\n", fmt::join(header, ","));
    for (const auto& row : rows_) {
      std::vector<std::string> cells;
      for (const Cell& cell : row) cells.push_back(for_csv(cell));
      text += fmt::format("{}\n", fmt::join(cells, ","));
    }
    return text;
  }
  return aligned(columns_, rows_, format == TableFormat::markdown);
}

}  // namespace hindsight
