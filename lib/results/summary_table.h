#pragma once
// /summary: one compound row per point; and tables as compound datasets.

#include <set>
#include <span>
#include <string>
#include <vector>

#include "hdf5/hdf5.h"
#include "results/result.h"
#include "results/table.h"

namespace hindsight {

/// The columns that say which point a row is of: point, trace, name, selector, then every parameter that any
/// of the points has, sorted by path.
class PointKeys {
 public:
  explicit PointKeys(std::span<const PointResult> points);
  std::vector<std::string> columns() const;
  /// A parameter that the point lacks is undefined.
  std::vector<Cell> cells(const PointResult& point) const;
  const std::set<std::string>& parameters() const { return parameters_; }
  std::vector<Cell> parameter_cells(const PointResult& point) const;

 private:
  std::set<std::string> parameters_;
};

/// Rows of keys, each followed by its metrics in order of first appearance (undefined where a row lacks one).
KeyedTable join_metrics(std::vector<std::string> key_columns, std::vector<std::vector<Cell>> keys,
                        const std::vector<MetricValues>& metrics);

/// A row per point: the keys, then its summary values.
KeyedTable summary_table(std::span<const PointResult> points);

/// Writes a table as a compound dataset: strings of fixed length, int64, float64. An undefined cell is NaN, 0
/// or "", as its column has it. Attribute key_columns: n_keys.
void write_table(hid_t at, const std::string& name, const KeyedTable& table);
/// Reads what write_table wrote. Throws h5::Error where the dataset is no such table.
KeyedTable read_table(hid_t at, const std::string& name);

}  // namespace hindsight
