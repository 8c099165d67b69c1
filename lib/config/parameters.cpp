#include "config/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace hindsight {
namespace {

const ParameterValue& value_of(const ParameterSet& set, std::string_view path) {
  const auto found = set.values().find(path);
  if (found == set.values().end())
    throw std::out_of_range("parameter " + std::string(path) + " has no value");
  return found->second;
}

}  // namespace

std::string text_of(const ParameterValue& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

int64_t ParameterSet::integer(std::string_view path) const {
  return std::get<int64_t>(value_of(*this, path));
}
double ParameterSet::real(std::string_view path) const { return std::get<double>(value_of(*this, path)); }
const std::string& ParameterSet::choice(std::string_view path) const {
  return std::get<std::string>(value_of(*this, path));
}

const MethodDoc* MethodCatalog::find_selector(std::string_view name) const {
  const auto found = std::find_if(selectors.begin(), selectors.end(),
                                  [&](const MethodDoc& doc) { return doc.name == name; });
  return found == selectors.end() ? nullptr : &*found;
}

}  // namespace hindsight
