#pragma once
// A catalog of methods for tests of the configuration, which must not depend on the real ones.

#include "config/parameters.h"

namespace hindsight::test {

inline MethodCatalog test_catalog() {
  const auto integer = [](std::string path, std::optional<int64_t> value, double least, double most) {
    ParameterDoc doc;
    doc.path = std::move(path);
    doc.type = ParameterType::integer;
    if (value) doc.default_value = *value;
    doc.minimum = least;
    doc.maximum = most;
    return doc;
  };
  const auto choice = [](std::string path, std::string value, std::vector<std::string> choices) {
    ParameterDoc doc;
    doc.path = std::move(path);
    doc.type = ParameterType::choice;
    doc.default_value = std::move(value);
    doc.choices = std::move(choices);
    return doc;
  };
  ParameterDoc ratio;
  ratio.path = "budget.ratio";
  ratio.type = ParameterType::real;
  ratio.maximum = 1;
  ratio.minimum_excluded = true;
  const std::vector<ParameterDoc> common{integer("page_size", 16, 1, 1024),
                                         integer("dense_layers", 2, 0, 1000)};
  std::vector<ParameterDoc> budgeted = common;
  budgeted.insert(budgeted.end(), {integer("budget.tokens", std::nullopt, 1, 1e12), ratio,
                                   integer("budget.min_tokens", 0, 0, 1e12), integer("k_min", 3, 0, 1000),
                                   choice("gqa.unit", "per_kv_head", {"per_kv_head", "per_query_head"}),
                                   choice("gqa.combine", "mean", {"max", "mean", "sum"})});
  ParameterDoc refresh = choice("retro.refresh", "merge", {"merge", "recompute"});
  refresh.closed_loop_only = true;
  MethodCatalog catalog;
  catalog.selectors = {{"dense", "", "", "", false, "", common},
                       {"quest", "", "", "", false, "", budgeted},
                       {"streaming", "", "", "", true, "streaming evicts", budgeted}};
  catalog.refinements = {{"retro",
                          "",
                          "",
                          "",
                          false,
                          "",
                          {integer("retro.window", std::nullopt, 1, 64),
                           choice("retro.query", "recomputed", {"recomputed", "original"}), refresh}}};
  return catalog;
}

}  // namespace hindsight::test
