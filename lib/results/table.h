#pragma once
// Tables as people and programs read them: aligned text, CSV, JSON, Markdown.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace hindsight {

using Cell = std::variant<std::string, int64_t, double>;
enum class TableFormat { text, csv, json, markdown };

class Table {
 public:
  explicit Table(std::vector<std::string> columns) : columns_(std::move(columns)) {}

  /// As many cells as there are columns. Throws std::invalid_argument otherwise.
  void add_row(std::vector<Cell> cells);
  /// Ascending by a column; undefined values last; rows that are equal keep their order. Throws
  /// std::out_of_range for an unknown column.
  void sort_by(const std::string& column);
  /// Text and Markdown show numbers with four significant digits, CSV and JSON with all of them. NaN is "-"
  /// for people, empty in CSV, null in JSON. Ends with a line break.
  std::string render(TableFormat format = TableFormat::text) const;

  const std::vector<std::string>& columns() const { return columns_; }
  const std::vector<std::vector<Cell>>& rows() const { return rows_; }

 private:
  std::vector<std::string> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace hindsight
