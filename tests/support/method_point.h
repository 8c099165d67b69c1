#pragma once
// Points of methods without a configuration file.

#include <string>
#include <utility>
#include <vector>

#include "config/sweep_plan.h"
#include "methods/catalog.h"

namespace hindsight::test {

/// A point with the defaults of its selector and these parameters.
inline MethodPoint method_point(const std::string& selector,
                                const std::vector<std::pair<std::string, ParameterValue>>& given) {
  MethodPoint point;
  point.name = point.selector = selector;
  for (const ParameterDoc& doc : method_catalog().find_selector(selector)->parameters)
    if (doc.default_value) point.parameters.set(doc.path, *doc.default_value);
  for (const auto& [path, value] : given) point.parameters.set(path, value);
  return point;
}

}  // namespace hindsight::test
