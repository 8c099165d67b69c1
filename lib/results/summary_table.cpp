#include "results/summary_table.h"

#include <algorithm>

#include "results/metric_values.h"

namespace hindsight {
namespace {

Cell parameter_cell(const ParameterSet& parameters, const std::string& path) {
  const auto found = parameters.values().find(path);
  if (found == parameters.values().end()) return undefined_cell();
  return std::visit([](const auto& value) { return Cell(value); }, found->second);
}

enum class ColumnType { text, integer, real };

/// The type that the defined cells of a column share; float64 where there is none.
ColumnType type_of_column(const Table& table, size_t column) {
  for (const auto& row : table.rows()) {
    if (is_undefined(row[column])) continue;
    if (std::holds_alternative<std::string>(row[column])) return ColumnType::text;
    return std::holds_alternative<int64_t>(row[column]) ? ColumnType::integer : ColumnType::real;
  }
  return ColumnType::real;
}

struct Member {
  ColumnType type;
  size_t offset, bytes;
  h5::Id hdf5;
};

h5::Id member_type(ColumnType type, size_t bytes) {
  if (type == ColumnType::text) return h5::fixed_string_type(bytes);
  return h5::Id(H5Tcopy(type == ColumnType::integer ? H5T_STD_I64LE : H5T_IEEE_F64LE), "copy a type");
}

std::vector<Member> members_of(const Table& table) {
  std::vector<Member> members;
  size_t offset = 0;
  for (size_t column = 0; column < table.columns().size(); ++column) {
    const ColumnType type = type_of_column(table, column);
    size_t bytes = 8;
    if (type == ColumnType::text) {
      bytes = 1;
      for (const auto& row : table.rows())
        if (const auto* text = std::get_if<std::string>(&row[column])) bytes = std::max(bytes, text->size());
    }
    members.push_back({type, offset, bytes, member_type(type, bytes)});
    offset += bytes;
  }
  return members;
}

void pack(const Cell& cell, const Member& member, char* target) {
  const bool defined = !is_undefined(cell);
  switch (member.type) {
    case ColumnType::text:
      if (defined) std::get<std::string>(cell).copy(target, member.bytes);
      break;
    case ColumnType::integer: {
      const int64_t value = defined ? std::get<int64_t>(cell) : 0;
      std::copy_n(reinterpret_cast<const char*>(&value), sizeof(value), target);
      break;
    }
    case ColumnType::real: {
      const double value = std::get<double>(cell);
      std::copy_n(reinterpret_cast<const char*>(&value), sizeof(value), target);
      break;
    }
  }
}

/// One column of a compound dataset, converted by HDF5 whatever its offset, width and byte order.
std::vector<Cell> read_column(const h5::Id& dataset, const std::string& name, const h5::Id& stored,
                              size_t rows) {
  const H5T_class_t kind = H5Tget_class(stored);
  const bool text_of_fixed_length = kind == H5T_STRING && H5Tis_variable_str(stored) == 0;
  if (!text_of_fixed_length && kind != H5T_INTEGER && kind != H5T_FLOAT)
    throw h5::Error("column " + name + " is neither a number nor a string of fixed length");
  const ColumnType type = kind == H5T_STRING    ? ColumnType::text
                          : kind == H5T_INTEGER ? ColumnType::integer
                                                : ColumnType::real;
  const size_t bytes = type == ColumnType::text ? H5Tget_size(stored) : 8;
  const h5::Id wanted = member_type(type, bytes);
  const h5::Id compound(H5Tcreate(H5T_COMPOUND, bytes), "make the type of column " + name);
  h5::check(H5Tinsert(compound, name.c_str(), 0, wanted), "make the type of column " + name);
  std::vector<char> packed(bytes * rows);
  h5::read_all(dataset, compound, packed.data());

  std::vector<Cell> cells;
  for (const char* value = packed.data(); cells.size() < rows; value += bytes) {
    if (type == ColumnType::text) {
      const std::string text(value, bytes);
      cells.emplace_back(text.substr(0, text.find('\0')));
    } else if (type == ColumnType::integer) {
      int64_t number = 0;
      std::copy_n(value, sizeof(number), reinterpret_cast<char*>(&number));
      cells.emplace_back(number);
    } else {
      double number = 0;
      std::copy_n(value, sizeof(number), reinterpret_cast<char*>(&number));
      cells.emplace_back(number);
    }
  }
  return cells;
}

std::string member_name(const h5::Id& type, unsigned index) {
  char* raw = H5Tget_member_name(type, index);
  std::string name = raw ? raw : "";
  H5free_memory(raw);
  return name;
}

}  // namespace

PointKeys::PointKeys(std::span<const PointResult> points) {
  for (const PointResult& point : points)
    for (const auto& [path, value] : point.parameters.values()) parameters_.insert(path);
}

std::vector<std::string> PointKeys::columns() const {
  std::vector<std::string> columns{"point", "trace", "name", "selector"};
  columns.insert(columns.end(), parameters_.begin(), parameters_.end());
  return columns;
}

std::vector<Cell> PointKeys::cells(const PointResult& point) const {
  std::vector<Cell> cells{point.id, point.trace, point.name, point.selector};
  for (Cell& cell : parameter_cells(point)) cells.push_back(std::move(cell));
  return cells;
}

std::vector<Cell> PointKeys::parameter_cells(const PointResult& point) const {
  std::vector<Cell> cells;
  for (const std::string& path : parameters_) cells.push_back(parameter_cell(point.parameters, path));
  return cells;
}

KeyedTable join_metrics(std::vector<std::string> key_columns, std::vector<std::vector<Cell>> keys,
                        const std::vector<MetricValues>& metrics) {
  const size_t n_keys = key_columns.size();
  const std::vector<std::string> names = names_of(metrics);
  key_columns.insert(key_columns.end(), names.begin(), names.end());
  Table table(std::move(key_columns));
  for (size_t i = 0; i < keys.size(); ++i) {
    std::vector<Cell> row = std::move(keys[i]);
    for (const std::string& name : names) {
      const auto value = defined_value(metrics[i], name);
      row.push_back(value ? Cell(*value) : undefined_cell());
    }
    table.add_row(std::move(row));
  }
  return {std::move(table), n_keys};
}

KeyedTable summary_table(std::span<const PointResult> points) {
  const PointKeys keys(points);
  std::vector<std::vector<Cell>> cells;
  for (const PointResult& point : points) cells.push_back(keys.cells(point));
  return join_metrics(keys.columns(), std::move(cells), summaries_of(points));
}

void write_table(hid_t at, const std::string& name, const KeyedTable& keyed) {
  const Table& table = keyed.table;
  const std::vector<Member> members = members_of(table);
  const size_t row_bytes = members.back().offset + members.back().bytes;
  const h5::Id type(H5Tcreate(H5T_COMPOUND, row_bytes), "make the type of " + name);
  for (size_t c = 0; c < members.size(); ++c)
    h5::check(H5Tinsert(type, table.columns()[c].c_str(), members[c].offset, members[c].hdf5),
              "make column " + table.columns()[c] + " of " + name);
  std::vector<char> packed(row_bytes * table.rows().size(), '\0');
  for (size_t r = 0; r < table.rows().size(); ++r)
    for (size_t c = 0; c < members.size(); ++c)
      pack(table.rows()[r][c], members[c], packed.data() + r * row_bytes + members[c].offset);
  const h5::Id dataset = h5::create_dataset(at, name, type, {static_cast<int64_t>(table.rows().size())});
  h5::write_all(dataset, type, packed.data());
  h5::write_integer(dataset, "key_columns", static_cast<int64_t>(keyed.n_keys));
}

KeyedTable read_table(hid_t at, const std::string& name) {
  const h5::Id dataset = h5::open_dataset(at, name);
  const h5::Id type(H5Dget_type(dataset), "read a type");
  const std::vector<int64_t> shape = h5::shape_of(dataset);
  if (H5Tget_class(type) != H5T_COMPOUND || shape.size() != 1) throw h5::Error("/" + name + " is no table");
  const auto rows = static_cast<size_t>(shape[0]);
  std::vector<std::string> columns;
  std::vector<std::vector<Cell>> cells;
  for (int member = 0; member < H5Tget_nmembers(type); ++member) {
    const auto index = static_cast<unsigned>(member);
    columns.push_back(member_name(type, index));
    const h5::Id stored(H5Tget_member_type(type, index), "read a type");
    cells.push_back(read_column(dataset, columns.back(), stored, rows));
  }
  const int64_t n_keys = h5::read_integer(dataset, "key_columns");
  if (n_keys < 0 || n_keys > static_cast<int64_t>(columns.size()))
    throw h5::Error("/" + name + ": attribute key_columns is out of range");
  Table table(std::move(columns));
  for (size_t row = 0; row < rows; ++row) {
    std::vector<Cell> line;
    for (auto& column : cells) line.push_back(std::move(column[row]));
    table.add_row(std::move(line));
  }
  return {std::move(table), static_cast<size_t>(n_keys)};
}

}  // namespace hindsight
