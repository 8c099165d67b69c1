#pragma once
// --dtype of the commands that write traces.

#include <map>
#include <string>

#include "core/dtype.h"

namespace hindsight::app {

inline const std::map<std::string, DType>& dtype_names() {
  static const std::map<std::string, DType> names{
      {"float16", DType::float16}, {"bfloat16", DType::bfloat16}, {"float32", DType::float32}};
  return names;
}

}  // namespace hindsight::app
