#pragma once
// What a finished point is, as plain data: produced by replay, kept by ResultStore, read back by report and compare.

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "config/parameters.h"

namespace hindsight {

/// A named array over named dimensions. NaN means undefined.
struct Series {
  std::string name;                     ///< metric name, "rel_l2_final"
  std::vector<std::string> dimensions;  ///< names of coordinates, e.g. {"step", "layer", "q_head"}
  std::vector<int64_t> shape;
  std::vector<double> values;           ///< row-major; stored as float32, or as int64 where `integral`
  bool integral = false;
  std::string unit, description;
};

/// Values along a dimension; becomes an HDF5 dimension scale of that name.
struct Coordinate {
  std::string name;
  std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string>> values;
};

/// One finished point.
struct PointResult {
  std::string id;             ///< see point_id
  std::string trace;          ///< trace file as the configuration names it
  std::string trace_digest;
  std::string name, selector;
  ParameterSet parameters;
  std::vector<Coordinate> coordinates;
  std::vector<Series> series;
  std::vector<std::pair<std::string, double>> summary;  ///< columns of /summary after the parameters, in order
};

}  // namespace hindsight
