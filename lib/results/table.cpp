#include "results/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace hindsight {
namespace {

using Lines = std::vector<std::vector<std::string>>;  // cells of each line of text

/// Characters, of UTF-8.
size_t display_width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string replace_all(const std::string& text, char what, const std::string& with) {
  std::string replaced;
  for (const char c : text) replaced += c == what ? with : std::string(1, c);
  return replaced;
}

std::string for_csv(const Cell& cell) {
  if (const auto* number = std::get_if<int64_t>(&cell)) return fmt::format("{}", *number);
  if (const auto* value = std::get_if<double>(&cell))
    return std::isnan(*value) ? "" : fmt::format("{}", *value);
  const auto& text = std::get<std::string>(cell);
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  return '"' + replace_all(text, '"', "\"\"") + '"';
}

std::string render_csv(const Table& table) {
  std::string text;
  const auto add_line = [&](const auto& cells) {
    std::vector<std::string> line;
    for (const auto& cell : cells) line.push_back(for_csv(cell));
    text += fmt::format("{}\n", fmt::join(line, ","));
  };
  add_line(table.columns());
  for (const auto& row : table.rows()) add_line(row);
  return text;
}

std::string render_json(const Table& table) {
  using Json = nlohmann::ordered_json;
  Json rows = Json::array();
  for (const auto& row : table.rows()) {
    Json object = Json::object();
    for (size_t c = 0; c < row.size(); ++c)
      object[table.columns()[c]] = std::visit([](const auto& value) { return Json(value); }, row[c]);
    rows.push_back(std::move(object));
  }
  // Names of files need not be UTF-8.
  return rows.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// Breaks a heading after '_' and '.' so that its lines fit `width` where they can.
std::vector<std::string> wrap(const std::string& heading, size_t width) {
  std::vector<std::string> lines{""};
  for (size_t from = 0; from < heading.size();) {
    const size_t end = std::min(heading.find_first_of("_.", from), heading.size() - 1) + 1;
    const std::string piece = heading.substr(from, end - from);
    if (!lines.back().empty() && display_width(lines.back() + piece) > width) lines.emplace_back();
    lines.back() += piece;
    from = end;
  }
  return lines;
}

/// Headings as lines of cells, the last one next to the table's body.
Lines wrapped_headings(const std::vector<std::string>& columns, const Lines& body) {
  constexpr size_t least_width = 8;
  std::vector<std::vector<std::string>> headings;
  size_t height = 1;
  for (size_t c = 0; c < columns.size(); ++c) {
    size_t width = least_width;
    for (const auto& line : body) width = std::max(width, display_width(line[c]));
    headings.push_back(wrap(columns[c], width));
    height = std::max(height, headings.back().size());
  }
  Lines lines(height, std::vector<std::string>(columns.size()));
  for (size_t c = 0; c < columns.size(); ++c)
    for (size_t i = 0; i < headings[c].size(); ++i)
      lines[height - headings[c].size() + i][c] = headings[c][i];
  return lines;
}

std::string render_aligned(const Table& table, bool markdown) {
  const size_t n = table.columns().size();
  std::vector<bool> numeric(n, !table.rows().empty());
  Lines body;
  for (const auto& row : table.rows()) {
    auto& line = body.emplace_back();
    for (size_t c = 0; c < n; ++c) {
      const std::string text = cell_text(row[c]);
      line.push_back(markdown ? replace_all(text, '|', "\\|") : text);
      if (std::holds_alternative<std::string>(row[c])) numeric[c] = false;
    }
  }
  const Lines headings = markdown ? Lines{table.columns()} : wrapped_headings(table.columns(), body);
  std::vector<size_t> widths(n, markdown ? 3 : 1);
  for (const Lines* lines : {&headings, static_cast<const Lines*>(&body)})
    for (const auto& line : *lines)
      for (size_t c = 0; c < n; ++c) widths[c] = std::max(widths[c], display_width(line[c]));

  std::string text;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line = markdown ? "| " : "";
    for (size_t c = 0; c < n; ++c) {
      if (c > 0) line += markdown ? " | " : "  ";
      const std::string padding(widths[c] - display_width(cells[c]), ' ');
      line += numeric[c] ? padding + cells[c] : cells[c] + padding;
    }
    if (markdown) line += " |";
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  for (const auto& line : headings) add_line(line);
  std::vector<std::string> rule;
  for (size_t c = 0; c < n; ++c)
    rule.push_back(markdown && numeric[c] ? std::string(widths[c] - 1, '-') + ":"
                                          : std::string(widths[c], '-'));
  add_line(rule);
  for (const auto& line : body) add_line(line);
  return text;
}

}  // namespace

Cell undefined_cell() { return std::numeric_limits<double>::quiet_NaN(); }

bool is_undefined(const Cell& cell) {
  const auto* value = std::get_if<double>(&cell);
  return value && std::isnan(*value);
}

std::string cell_text(const Cell& cell) {
  if (const auto* text = std::get_if<std::string>(&cell)) return *text;
  if (const auto* number = std::get_if<int64_t>(&cell)) return fmt::format("{}", *number);
  const double value = std::get<double>(cell);
  if (std::isnan(value)) return "-";
  // Large counts (bytes) are easier to compare in full than as powers of ten.
  return std::abs(value) >= 1e4 && std::abs(value) < 1e15 ? fmt::format("{:.0f}", value)
                                                          : fmt::format("{:.4g}", value);
}

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
  if (format == TableFormat::json) return render_json(*this);
  if (format == TableFormat::csv) return render_csv(*this);
  return render_aligned(*this, format == TableFormat::markdown);
}

}  // namespace hindsight
