#include "config/method_sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "config/nearest_name.h"

namespace hindsight {
namespace {

/// Values that vary together: one path in a grid, several in a zip.
struct Axis {
  std::vector<std::string> paths;
  std::vector<std::vector<ParameterValue>> values;  // [place][path]
};

class MethodExpansion {
 public:
  MethodExpansion(const MapReader& method, std::string name, const MethodDoc& selector,
                  const MethodCatalog& catalog, const std::string& file, Problems& problems)
      : method_(method),
        name_(std::move(name)),
        selector_(selector),
        catalog_(catalog),
        file_(file),
        problems_(problems) {}

  std::vector<MethodPoint> expand(const std::vector<PathItem>& defaults,
                                  const std::vector<PathItem>& overrides) {
    for (const PathItem& leaf : overrides) take_value(leaf);
    for (const PathItem& leaf : flatten(method_, {"name", "selector", "grid", "zip"}, file_, problems_))
      if (!places_.contains(leaf.path)) take_value(leaf);
    if (const YamlItem grid = method_.get("grid"); grid.given()) take_grid(grid);
    if (const YamlItem zip = method_.get("zip"); zip.given()) take_zip(zip);
    for (const PathItem& leaf : defaults) take_default(leaf);
    check_whole();
    return points();
  }

 private:
  const ParameterDoc* parameter(const PathItem& leaf) {
    const ParameterDoc* doc = find_parameter(catalog_, selector_, leaf.path);
    if (doc) return doc;
    std::vector<std::string> known;
    for (const ParameterDoc& candidate : selector_.parameters) known.push_back(candidate.path);
    for (const MethodDoc& refinement : catalog_.refinements)
      for (const ParameterDoc& candidate : refinement.parameters) known.push_back(candidate.path);
    problems_.add(leaf.item.place,
                  fmt::format("method {}: selector {} has no parameter {}; did you mean {}?", name_,
                              selector_.name, leaf.path, nearest_name(leaf.path, known)));
    return nullptr;
  }

  void take_value(const PathItem& leaf) {
    places_[leaf.path] = leaf.item.place;
    const ParameterDoc* doc = parameter(leaf);
    if (!doc) return;
    if (const auto value = as_parameter(leaf.item, *doc, problems_)) fixed_[leaf.path] = *value;
  }

  /// Defaults give way to what the method says, also to the other way of saying a budget.
  void take_default(const PathItem& leaf) {
    if (places_.contains(leaf.path) || !find_parameter(catalog_, selector_, leaf.path)) return;
    if (leaf.path == "budget.tokens" &&
        (places_.contains("budget.ratio") || places_.contains("budget.min_tokens")))
      return;
    if ((leaf.path == "budget.ratio" || leaf.path == "budget.min_tokens") &&
        places_.contains("budget.tokens"))
      return;
    take_value(leaf);
  }

  /// The list of a path on an axis; nothing where it is replaced on the command line or wrong.
  std::optional<std::vector<ParameterValue>> take_axis(const PathItem& leaf) {
    if (const auto before = places_.find(leaf.path); before != places_.end()) {
      if (before->second.rfind("--set", 0) == 0) return std::nullopt;
      problems_.add(leaf.item.place,
                    fmt::format("method {}: {} is given twice, here and at {}; once would be right", name_,
                                leaf.path, before->second));
      return std::nullopt;
    }
    places_[leaf.path] = leaf.item.place;
    const ParameterDoc* doc = parameter(leaf);
    if (!doc) return std::nullopt;
    std::vector<ParameterValue> values;
    for (const YamlItem& item : as_list(leaf.item, leaf.path, file_, problems_)) {
      const auto value = as_parameter(item, *doc, problems_);
      if (!value) return std::nullopt;
      if (std::find(values.begin(), values.end(), *value) != values.end() && !zipping_)
        problems_.add(item.place,
                      fmt::format("method {}: {} stands twice in the grid of {}; once would be right", name_,
                                  item.node.Scalar(), leaf.path));
      values.push_back(*value);
    }
    if (values.empty()) return std::nullopt;
    return values;
  }

  std::vector<PathItem> axes_of(const YamlItem& item, const std::string& what) {
    const MapReader map(item, fmt::format("method {}: {}", name_, what), file_, problems_);
    std::vector<PathItem> leaves = flatten(map, {}, file_, problems_);
    if (item.node.IsMap() && leaves.empty())
      problems_.add(
          item.place,
          fmt::format("method {}: {} is empty; lists of values by parameter would be right", name_, what));
    return leaves;
  }

  void take_grid(const YamlItem& grid) {
    for (const PathItem& leaf : axes_of(grid, "grid")) {
      if (const auto values = take_axis(leaf)) {
        Axis& axis = axes_.emplace_back();
        axis.paths = {leaf.path};
        for (const ParameterValue& value : *values) axis.values.push_back({value});
      }
    }
  }

  void take_zip(const YamlItem& zip) {
    zipping_ = true;
    Axis axis;
    std::string first_path;
    for (const PathItem& leaf : axes_of(zip, "zip")) {
      const auto values = take_axis(leaf);
      if (!values) continue;
      if (axis.paths.empty()) {
        axis.values.resize(values->size());
        first_path = leaf.path;
      }
      if (values->size() != axis.values.size()) {
        problems_.add(leaf.item.place,
                      fmt::format("method {}: zip: {} has {} values and {} has {}; as many would be right",
                                  name_, leaf.path, values->size(), first_path, axis.values.size()));
        continue;
      }
      axis.paths.push_back(leaf.path);
      for (size_t i = 0; i < values->size(); ++i) axis.values[i].push_back((*values)[i]);
    }
    if (!axis.paths.empty()) axes_.push_back(std::move(axis));
  }

  /// What concerns several parameters at once.
  void check_whole() {
    const auto given = [&](const char* path) { return places_.contains(path); };
    if (given("budget.tokens") && given("budget.ratio"))
      problems_.add(
          places_["budget.ratio"],
          fmt::format("method {}: budget.ratio contradicts budget.tokens (at {}); one of them would be right",
                      name_, places_["budget.tokens"]));
    if (given("budget.tokens") && given("budget.min_tokens"))
      problems_.add(
          places_["budget.min_tokens"],
          fmt::format("method {}: budget.min_tokens has no meaning with budget.tokens (at {}); leave it out",
                      name_, places_["budget.tokens"]));
    const bool takes_budget = find_parameter(catalog_, selector_, "budget.tokens") != nullptr;
    if (takes_budget && !given("budget.tokens") && !given("budget.ratio"))
      problems_.add(
          method_.place(),
          fmt::format("method {}: selector {} needs a budget; budget.ratio or budget.tokens would be right",
                      name_, selector_.name));
    for (const MethodDoc& refinement : catalog_.refinements)
      for (const ParameterDoc& doc : refinement.parameters)
        if (given(doc.path.c_str()) && selector_.evicts)
          problems_.add(places_[doc.path], fmt::format("method {}: {} cannot refine {}: {}", name_,
                                                       refinement.name, selector_.name, selector_.refusal));
  }

  std::vector<MethodPoint> points() const {
    MethodPoint base;
    base.name = name_;
    base.selector = selector_.name;
    for (const ParameterDoc& doc : selector_.parameters) {
      const bool of_ratio_only = doc.path == "budget.min_tokens" && places_.contains("budget.tokens");
      if (doc.default_value && !of_ratio_only) base.parameters.set(doc.path, *doc.default_value);
    }
    for (const auto& [path, value] : fixed_) base.parameters.set(path, value);
    std::vector<MethodPoint> points{base};
    for (const Axis& axis : axes_) {
      std::vector<MethodPoint> expanded;
      for (const MethodPoint& point : points)
        for (const auto& values : axis.values) {
          expanded.push_back(point);
          for (size_t i = 0; i < axis.paths.size(); ++i)
            expanded.back().parameters.set(axis.paths[i], values[i]);
        }
      points = std::move(expanded);
    }
    return points;
  }

  const MapReader& method_;
  std::string name_;
  const MethodDoc& selector_;
  const MethodCatalog& catalog_;
  const std::string& file_;
  Problems& problems_;
  bool zipping_ = false;
  std::map<std::string, std::string> places_;  // of every path that was given, right or wrong
  std::map<std::string, ParameterValue> fixed_;
  std::vector<Axis> axes_;
};

void flatten_into(std::vector<PathItem>& leaves, const std::string& prefix, const YamlItem& item,
                  const std::string& file, Problems& problems) {
  if (!item.node.IsMap()) {
    leaves.push_back({prefix, item});
    return;
  }
  const MapReader map(item, prefix, file, problems);
  if (map.entries().empty())
    problems.add(item.place,
                 fmt::format("{}: is an empty map; leave it out, or give its parameters", prefix));
  for (const auto& [key, value] : map.entries())
    flatten_into(leaves, prefix + "." + key, value, file, problems);
}

}  // namespace

const ParameterDoc* find_parameter(const MethodCatalog& catalog, const MethodDoc& selector,
                                   const std::string& path) {
  for (const ParameterDoc& doc : selector.parameters)
    if (doc.path == path) return &doc;
  for (const MethodDoc& refinement : catalog.refinements)
    for (const ParameterDoc& doc : refinement.parameters)
      if (doc.path == path) return &doc;
  return nullptr;
}

std::vector<PathItem> flatten(const MapReader& map, const std::vector<std::string>& except,
                              const std::string& file, Problems& problems) {
  std::vector<PathItem> leaves, unique;
  for (const auto& [key, item] : map.entries())
    if (std::find(except.begin(), except.end(), key) == except.end())
      flatten_into(leaves, key, item, file, problems);
  for (const PathItem& leaf : leaves) {
    const auto before = std::find_if(unique.begin(), unique.end(),
                                     [&](const PathItem& other) { return other.path == leaf.path; });
    if (before == unique.end())
      unique.push_back(leaf);
    else
      problems.add(leaf.item.place, fmt::format("{} is given twice, here and at {}; once would be right",
                                                leaf.path, before->item.place));
  }
  return unique;
}

std::vector<MethodPoint> expand_method(const MapReader& method, const std::string& name,
                                       const std::vector<PathItem>& defaults,
                                       const std::vector<PathItem>& overrides, const MethodCatalog& catalog,
                                       const std::string& file, Problems& problems) {
  const YamlItem item = method.get("selector");
  if (!item.given()) {
    problems.add(method.place(),
                 fmt::format("method {}: selector is missing; the name of a selector would be right", name));
    return {};
  }
  const auto selector_name = as_string(item, fmt::format("method {}: selector", name), problems);
  if (!selector_name) return {};
  const MethodDoc* selector = catalog.find_selector(*selector_name);
  if (!selector) {
    std::vector<std::string> known;
    for (const MethodDoc& doc : catalog.selectors) known.push_back(doc.name);
    problems.add(item.place, fmt::format("method {}: selector {} is not known; did you mean {}?", name,
                                         *selector_name, nearest_name(*selector_name, known)));
    return {};
  }
  return MethodExpansion(method, name, *selector, catalog, file, problems).expand(defaults, overrides);
}

}  // namespace hindsight
