#pragma once
// Tables as people and programs read them: aligned text, CSV, JSON, Markdown.

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace hindsight {

/// A number that is NaN stands for "undefined" or "does not apply", whatever the type of its column.
using Cell = std::variant<std::string, int64_t, double>;
Cell undefined_cell();
bool is_undefined(const Cell& cell);

enum class TableFormat { text, csv, json, markdown };

class Table {
 public:
  explicit Table(std::vector<std::string> columns) : columns_(std::move(columns)) {}

  /// As many cells as there are columns. Throws std::invalid_argument otherwise.
  void add_row(std::vector<Cell> cells);
  /// Ascending by a column; undefined values last; rows that are equal keep their order. Throws
  /// std::out_of_range for an unknown column.
  void sort_by(const std::string& column);
  /// Text and Markdown show numbers with four significant digits, CSV and JSON with all of them. Undefined is
  /// "-" for people, empty in CSV, null in JSON. In text, headings longer than their cells break after '_' or
  /// '.'. Ends with a line break.
  std::string render(TableFormat format = TableFormat::text) const;

  const std::vector<std::string>& columns() const { return columns_; }
  const std::vector<std::vector<Cell>>& rows() const { return rows_; }

 private:
  std::vector<std::string> columns_;
  std::vector<std::vector<Cell>> rows_;
};

/// A table whose first `n_keys` columns say what a row is of; the others hold what was measured.
struct KeyedTable {
  Table table;
  size_t n_keys = 0;
};

/// A cell as text and Markdown show it.
std::string cell_text(const Cell& cell);

}  // namespace hindsight
