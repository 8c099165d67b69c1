#include "config/method_sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "config/nearest_name.h"

namespace hindsight {
namespace {

/// Values that vary together: one path in a grid, several in a zip.
struct Axis {
  std::vector<std::string> paths;
  std::vector<std::vector<ParameterValue>> values;  // [place][path]
};

constexpr int64_t most_points = 10000;  // of one method; a sweep of more is a mistake, and may not fit

class MethodExpansion {
 public:
  MethodExpansion(const MapReader& method, std::string name, const MethodDoc& selector,
                  const MethodCatalog& catalog, Loop loop, Problems& problems)
      : method_(method),
        name_(std::move(name)),
        selector_(selector),
        catalog_(catalog),
        loop_(loop),
        problems_(problems) {}

  std::vector<MethodPoint> expand(const std::vector<PathItem>& defaults,
                                  const std::vector<PathItem>& overrides) {
    for (const PathItem& leaf : overrides) {
      overridden_.insert(leaf.path);
      take_value(leaf);
    }
    for (const PathItem& leaf : flatten(method_, {"name", "selector", "grid", "zip"}, problems_))
      if (!places_.contains(leaf.path)) take_value(leaf);
    if (const YamlItem grid = method_.get("grid"); grid.given()) take_grid(grid);
    if (const YamlItem zip = method_.get("zip"); zip.given()) take_zip(zip);
    for (const PathItem& leaf : defaults) take_default(leaf);
    check_whole();
    check_refinements();
    return points();
  }

 private:
  bool applies(const ParameterDoc& doc) const { return loop_ == Loop::closed || !doc.closed_loop_only; }

  const ParameterDoc* parameter(const PathItem& leaf) {
    const ParameterDoc* doc = find_parameter(catalog_, selector_, leaf.path);
    if (doc && applies(*doc)) return doc;
    if (doc) {
      problems_.add(leaf.item.key_place,
                    fmt::format("method {}: {} concerns a model that decodes (hindsight eval): in a replay "
                                "queries, keys and values do not change; leave it out",
                                name_, leaf.path));
      return nullptr;
    }
    std::vector<std::string> known;
    for (const ParameterDoc& candidate : selector_.parameters) known.push_back(candidate.path);
    for (const MethodDoc& refinement : catalog_.refinements)
      for (const ParameterDoc& candidate : refinement.parameters) known.push_back(candidate.path);
    problems_.add(leaf.item.key_place,
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
    if (overridden_.contains(leaf.path)) return std::nullopt;
    if (const auto before = places_.find(leaf.path); before != places_.end()) {
      problems_.add(leaf.item.key_place,
                    fmt::format("method {}: {} is given twice, here and at {}; once would be right", name_,
                                leaf.path, before->second));
      return std::nullopt;
    }
    places_[leaf.path] = leaf.item.place;
    const ParameterDoc* doc = parameter(leaf);
    if (!doc) return std::nullopt;
    const std::vector<YamlItem> items = as_list(leaf.item, leaf.path, problems_);
    std::vector<ParameterValue> values;
    for (const YamlItem& item : items)
      if (const auto value = as_parameter(item, *doc, problems_)) values.push_back(*value);
    if (values.empty() || values.size() < items.size()) return std::nullopt;
    return values;
  }

  /// A combination that stands twice would be one point computed twice.
  void refuse_repeats(const Axis& axis, const std::vector<YamlItem>& items, const std::string& what) {
    std::map<std::vector<ParameterValue>, size_t> seen;
    for (size_t i = 0; i < axis.values.size(); ++i) {
      const auto [before, is_new] = seen.try_emplace(axis.values[i], i);
      if (is_new) continue;
      std::string values;
      for (const ParameterValue& value : axis.values[i])
        values += (values.empty() ? "" : ", ") + text_of(value);
      problems_.add(items[i].place,
                    fmt::format("method {}: {} stands twice in the {} (also at {}); once would be right",
                                name_, values, what, items[before->second].place));
    }
  }

  std::vector<PathItem> axes_of(const YamlItem& item, const std::string& what) {
    const MapReader map(item, fmt::format("method {}: {}", name_, what), problems_);
    std::vector<PathItem> leaves = flatten(map, {}, problems_);
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
        refuse_repeats(axis, as_list(leaf.item, leaf.path, problems_), "grid of " + leaf.path);
      }
    }
  }

  void take_zip(const YamlItem& zip) {
    Axis axis;
    std::string first_path;
    std::vector<YamlItem> first_items;
    bool even = true;
    for (const PathItem& leaf : axes_of(zip, "zip")) {
      const auto values = take_axis(leaf);
      if (!values) continue;
      if (axis.paths.empty()) {
        axis.values.resize(values->size());
        first_path = leaf.path;
        first_items = as_list(leaf.item, leaf.path, problems_);
      }
      if (values->size() != axis.values.size()) {
        problems_.add(leaf.item.place,
                      fmt::format("method {}: zip: {} has {} values and {} has {}; as many would be right",
                                  name_, leaf.path, values->size(), first_path, axis.values.size()));
        even = false;
        continue;
      }
      axis.paths.push_back(leaf.path);
      for (size_t i = 0; i < values->size(); ++i) axis.values[i].push_back((*values)[i]);
    }
    if (axis.paths.empty()) return;
    if (even) refuse_repeats(axis, first_items, "zip");
    axes_.push_back(std::move(axis));
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
    double points = 1;
    for (const Axis& axis : axes_) points *= static_cast<double>(axis.values.size());
    if (points > static_cast<double>(most_points))
      problems_.add(method_.place(), fmt::format("method {}: makes {} points; at most {} would be right",
                                                 name_, points, most_points));
  }

  bool is_refined_by(const MethodDoc& refinement) const {
    return std::any_of(refinement.parameters.begin(), refinement.parameters.end(),
                       [&](const ParameterDoc& doc) { return places_.contains(doc.path); });
  }

  void check_refinements() {
    for (const MethodDoc& refinement : catalog_.refinements) {
      if (!is_refined_by(refinement)) continue;
      for (const ParameterDoc& doc : refinement.parameters) {
        if (const auto given = places_.find(doc.path); given == places_.end()) {
          if (!doc.default_value && applies(doc))
            problems_.add(method_.place(), fmt::format("method {}: {} needs {}; give it, or leave {} out",
                                                       name_, refinement.name, doc.path, refinement.name));
        } else if (selector_.evicts) {
          problems_.add(given->second, fmt::format("method {}: {} cannot refine {}: {}", name_,
                                                   refinement.name, selector_.name, selector_.refusal));
        }
      }
    }
  }

  std::vector<MethodPoint> points() const {
    if (!problems_.empty()) return {};  // among them may be that these are too many to make
    MethodPoint base;
    base.name = name_;
    base.selector = selector_.name;
    for (const ParameterDoc& doc : selector_.parameters) {
      const bool of_ratio_only = doc.path == "budget.min_tokens" && places_.contains("budget.tokens");
      if (doc.default_value && !of_ratio_only) base.parameters.set(doc.path, *doc.default_value);
    }
    for (const MethodDoc& refinement : catalog_.refinements)
      if (is_refined_by(refinement))
        for (const ParameterDoc& doc : refinement.parameters)
          if (doc.default_value && applies(doc)) base.parameters.set(doc.path, *doc.default_value);
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
  Loop loop_;
  Problems& problems_;
  std::set<std::string> overridden_;           // on the command line
  std::map<std::string, std::string> places_;  // of every path that was given, right or wrong
  std::map<std::string, ParameterValue> fixed_;
  std::vector<Axis> axes_;
};

void flatten_into(std::vector<PathItem>& leaves, const std::string& prefix, const YamlItem& item,
                  Problems& problems) {
  if (!item.node.IsMap()) {
    leaves.push_back({prefix, item});
    return;
  }
  const MapReader map(item, prefix, problems);
  if (map.entries().empty())
    problems.add(item.place,
                 fmt::format("{}: is an empty map; leave it out, or give its parameters", prefix));
  for (const auto& [key, value] : map.entries()) flatten_into(leaves, prefix + "." + key, value, problems);
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
                              Problems& problems) {
  std::vector<PathItem> leaves, unique;
  for (const auto& [key, item] : map.entries())
    if (std::find(except.begin(), except.end(), key) == except.end())
      flatten_into(leaves, key, item, problems);
  for (const PathItem& leaf : leaves) {
    const auto before = std::find_if(unique.begin(), unique.end(),
                                     [&](const PathItem& other) { return other.path == leaf.path; });
    if (before == unique.end())
      unique.push_back(leaf);
    else
      problems.add(leaf.item.key_place, fmt::format("{} is given twice, here and at {}; once would be right",
                                                    leaf.path, before->item.place));
  }
  return unique;
}

std::vector<MethodPoint> expand_method(const MapReader& method, const std::string& name,
                                       const std::vector<PathItem>& defaults,
                                       const std::vector<PathItem>& overrides, const MethodCatalog& catalog,
                                       Loop loop, Problems& problems) {
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
  return MethodExpansion(method, name, *selector, catalog, loop, problems).expand(defaults, overrides);
}

}  // namespace hindsight
