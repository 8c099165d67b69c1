#pragma once
// One method of the configuration: its values, grid and zip, expanded into points.

#include <string>
#include <vector>

#include "config/sweep_plan.h"
#include "config/yaml_reader.h"

namespace hindsight {

/// A value at a dotted path.
struct PathItem {
  std::string path;
  YamlItem item;
};

/// The leaves of nested maps and dotted keys: {budget: {ratio: 0.1}} and {budget.ratio: 0.1} are the same.
std::vector<PathItem> flatten(const MapReader& map, const std::vector<std::string>& except,
                              Problems& problems);

/// Expands a method. `defaults` are used where the method has the parameter and gives none itself;
/// `overrides` replace values and axes. Parameters that have no meaning in `loop` are refused. Problems are
/// added, and then what is returned is incomplete.
std::vector<MethodPoint> expand_method(const MapReader& method, const std::string& name,
                                       const std::vector<PathItem>& defaults,
                                       const std::vector<PathItem>& overrides, const MethodCatalog& catalog,
                                       Loop loop, Problems& problems);

/// The parameter at a path: of the selector, or of a refinement. nullptr where there is none.
const ParameterDoc* find_parameter(const MethodCatalog& catalog, const MethodDoc& selector,
                                   const std::string& path);

}  // namespace hindsight
