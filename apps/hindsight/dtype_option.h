#pragma once
// --dtype of the commands that write traces.

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "core/dtype.h"

namespace hindsight::app {

/// Adds --dtype, the storage type; `target` outlives the parse.
inline void add_dtype_option(CLI::App& command, DType& target) {
  static const std::map<std::string, DType> names{
      {"float16", DType::float16}, {"bfloat16", DType::bfloat16}, {"float32", DType::float32}};
  command
      .add_option_function<std::string>(
          "--dtype", [&target](const std::string& name) { target = names.at(name); },
          "storage type: float16, bfloat16 or float32")
      ->check(CLI::IsMember(names))
      ->default_str("bfloat16");
}

}  // namespace hindsight::app
