#pragma once
// Named arrays: what metrics measure and result files hold.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace hindsight {

/// A named array over named dimensions. NaN means undefined.
struct Series {
  std::string name;                     ///< metric name, "rel_l2_final"
  std::vector<std::string> dimensions;  ///< names of coordinates, e.g. {"step", "layer", "q_head"}
  std::vector<int64_t> shape;
  std::vector<double> values;  ///< row-major; stored as float32, or as int64 where `integral`
  bool integral = false;
  std::string unit, description;
};

/// Series [sequence, step] beside those that hold means of several steps: how many each value is of.
inline constexpr const char* averaged_steps = "averaged_steps";

/// Values along a dimension; becomes an HDF5 dimension scale of that name.
struct Coordinate {
  std::string name;
  std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string>> values;
};

}  // namespace hindsight
