#pragma once
// --format of the commands that print tables.

#include <map>
#include <string>

#include "results/table.h"

namespace hindsight::app {

inline const std::map<std::string, TableFormat>& table_formats() {
  static const std::map<std::string, TableFormat> formats{{"table", TableFormat::text},
                                                          {"csv", TableFormat::csv},
                                                          {"json", TableFormat::json},
                                                          {"markdown", TableFormat::markdown}};
  return formats;
}

/// Whether people read it, who are shown the key columns; programs get all.
inline bool is_for_people(TableFormat format) {
  return format == TableFormat::text || format == TableFormat::markdown;
}

}  // namespace hindsight::app
