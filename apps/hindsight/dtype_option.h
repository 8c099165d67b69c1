#pragma once
// The option --dtype, of every command that writes a trace.

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "core/dtype.h"

namespace hindsight::app {

/// Adds --dtype, default bfloat16. `dtype` must live as long as the command line.
inline void add_dtype_option(CLI::App& command, DType& dtype, const std::string& what) {
  static const std::map<std::string, DType> dtypes{
      {"float16", DType::float16}, {"bfloat16", DType::bfloat16}, {"float32", DType::float32}};
  command
      .add_option_function<std::string>(
          "--dtype", [&dtype](const std::string& name) { dtype = dtypes.at(name); },
          what + "float16, bfloat16 or float32")
      ->check(CLI::IsMember(dtypes))
      ->default_str("bfloat16");
}

}  // namespace hindsight::app
