#include "config/plan_reader.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <string_view>

#include "config/nearest_name.h"
#include "core/error.h"

namespace hindsight {
namespace {

/// Points [first, last) of one method: what they share as values, the rest as a zip.
void emit_method(YAML::Emitter& out, const std::vector<MethodPoint>& points, size_t first, size_t last) {
  const MethodPoint& base = points[first];
  out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << base.name << YAML::Key << "selector"
      << YAML::Value << base.selector;
  std::vector<std::string> varying;
  for (const auto& [path, value] : base.parameters.values()) {
    const bool shared = std::all_of(points.begin() + static_cast<std::ptrdiff_t>(first),
                                    points.begin() + static_cast<std::ptrdiff_t>(last),
                                    [&, &path = path, &value = value](const MethodPoint& point) {
                                      return point.parameters.values().at(path) == value;
                                    });
    if (shared)
      out << YAML::Key << path << YAML::Value << text_of(value);
    else
      varying.push_back(path);
  }
  if (!varying.empty()) {
    out << YAML::Key << "zip" << YAML::Value << YAML::BeginMap;
    for (const std::string& path : varying) {
      out << YAML::Key << path << YAML::Value << YAML::Flow << YAML::BeginSeq;
      for (size_t point = first; point < last; ++point)
        out << text_of(points[point].parameters.values().at(path));
      out << YAML::EndSeq;
    }
    out << YAML::EndMap;
  }
  out << YAML::EndMap;
}

}  // namespace

PlanReader::PlanReader(const std::filesystem::path& file, const MethodCatalog& catalog,
                       const PlanOverrides& overrides)
    : file_(file),
      name_(file.string()),
      catalog_(catalog),
      root_(load_yaml_map(file)),
      top_(whole_file(root_, name_), "configuration", problems_),
      override_device_(overrides.device),
      override_output_(overrides.output) {
  take_overrides(overrides.set);
  for (const auto* docs : {&catalog.selectors, &catalog.refinements})
    for (const MethodDoc& doc : *docs)
      for (const ParameterDoc& parameter : doc.parameters) parameter_paths_.insert(parameter.path);
}

void PlanReader::take_overrides(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    const std::string path = text.substr(0, equals), place = "--set " + text;
    if (equals == std::string::npos || equals == 0)
      problems_.add(place, "no path=value; e.g. --set repeats=5 would be right");
    else if (overrides_.contains(path))
      problems_.add(place, path + " is set twice; once would be right");
    else if (const auto value = parse_yaml_value(text.substr(equals + 1), place, problems_))
      overrides_.emplace(path, *value);
  }
}

YamlItem PlanReader::get(const std::string& path, const MapReader& map, const std::string& key) {
  settable_.push_back(path);
  if (const auto found = overrides_.find(path); found != overrides_.end()) {
    used_.insert(path);
    return found->second;
  }
  return map.get(key);
}
MapReader PlanReader::section(const std::string& key) {
  const YamlItem item = top_.get(key);
  return MapReader(item.given() ? item : whole_file(YAML::Node(YAML::NodeType::Map), name_), key, problems_);
}

std::optional<int64_t> PlanReader::in_range(const YamlItem& item, const std::string& what, int64_t least,
                                            int64_t most) {
  if (!item.given()) return std::nullopt;
  const auto value = as_integer(item, what, problems_);
  if (!value || (*value >= least && *value <= most)) return value;
  const std::string right =
      most == no_limit ? fmt::format("at least {}", least) : fmt::format("{} to {}", least, most);
  problems_.add(item.place, fmt::format("{}: {} is out of range; {} would be right", what, *value, right));
  return std::nullopt;
}
void PlanReader::require(const std::string& key, const std::string& right) {
  problems_.add(name_ + ":1:1", fmt::format("{} is missing; {} would be right", key, right));
}

void PlanReader::take_version() {
  const YamlItem item = top_.get("version");
  if (!item.given()) return require("version", "version: 1");
  const auto version = as_integer(item, "version", problems_);
  if (version && *version != 1)
    problems_.add(item.place, fmt::format("version: {} is not known; 1 would be right", *version));
}

std::string PlanReader::take_device() {
  const YamlItem in_file = get("device");
  const std::string argument = override_device_ ? "--device " + *override_device_ : "";
  const YamlItem item =
      override_device_ ? YamlItem{YAML::Node(*override_device_), argument, "", argument} : in_file;
  if (!item.given()) return "auto";
  const auto device = as_string(item, "device", problems_);
  if (!device) return "auto";
  const std::string number = device->rfind("cuda:", 0) == 0 ? device->substr(5) : "";
  const bool numbered =
      !number.empty() && number.size() <= 3 &&
      std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (*device != "auto" && *device != "cpu" && *device != "cuda" && !numbered)
    problems_.add(
        item.place,
        fmt::format("device: '{}' is not known; auto, cpu, cuda or cuda:N would be right", *device));
  return *device;
}

std::filesystem::path PlanReader::take_output() {
  const YamlItem item = get("output");
  const std::filesystem::path folder = file_.parent_path();
  std::filesystem::path output = folder / "results" / (file_.stem().string() + ".h5");
  if (item.given())
    if (const auto path = as_string(item, "output", problems_)) output = folder / *path;
  return override_output_.value_or(output.lexically_normal());
}

std::vector<FilePattern> PlanReader::take_files(const std::string& key, const std::string& right) {
  std::vector<FilePattern> patterns;
  const YamlItem item = get(key);
  if (!item.given()) {
    require(key, right);
    return patterns;
  }
  std::vector<YamlItem> entries;
  if (item.node.IsScalar())
    entries = {item};
  else
    entries = as_list(item, key, problems_);
  for (const YamlItem& entry : entries)
    if (const auto pattern = as_string(entry, key, problems_)) patterns.push_back({*pattern, entry.place});
  return patterns;
}

/// What a pattern of the configuration stands for; empty where a glob matches nothing.
std::vector<std::filesystem::path> PlanReader::files_of(const std::string& pattern) const {
  const std::filesystem::path literal = (file_.parent_path() / pattern).lexically_normal();
  std::error_code ignored;
  if (pattern.find_first_of("*?[") == std::string::npos || std::filesystem::exists(literal, ignored))
    return {literal};
  std::string folder;  // its own name may hold what is special in a pattern
  for (const char c : file_.parent_path().string()) {
    if (std::string_view("*?[]\\").find(c) != std::string_view::npos) folder += '\\';
    folder += c;
  }
  std::vector<std::filesystem::path> found;
  glob_t matches{};
  const int status = glob((std::filesystem::path(folder) / pattern).c_str(), 0, nullptr, &matches);
  for (size_t i = 0; status == 0 && i < matches.gl_pathc; ++i)
    found.push_back(std::filesystem::path(matches.gl_pathv[i]).lexically_normal());
  globfree(&matches);
  return found;
}

/// A file that a pattern stands for, as the pattern would name it alone.
std::string PlanReader::name_of(const std::filesystem::path& file,
                                const std::filesystem::path& pattern) const {
  if (pattern.is_absolute()) return file.string();
  return file.lexically_proximate(file_.parent_path().lexically_normal()).generic_string();
}

std::vector<TraceFile> PlanReader::expand(const std::string& key,
                                          const std::vector<FilePattern>& patterns) const {
  std::vector<TraceFile> files;
  Problems unmatched;
  for (const auto& [pattern, place] : patterns) {
    const std::vector<std::filesystem::path> found = files_of(pattern);
    if (found.empty())
      unmatched.add(
          place, fmt::format("{}: no file matches {}; a pattern with at least one match would be right", key,
                             (file_.parent_path() / pattern).lexically_normal().string()));
    for (const std::filesystem::path& file : found)
      if (std::none_of(files.begin(), files.end(),
                       [&](const TraceFile& other) { return other.file == file; }))
        files.push_back({file, name_of(file, pattern), place});
  }
  if (!unmatched.empty()) throw TraceError(unmatched.text());
  return files;
}

std::string PlanReader::relative(const std::filesystem::path& path) const {
  return path.lexically_proximate(file_.parent_path()).generic_string();
}

/// Checked here once, whether or not a method uses them.
std::vector<PathItem> PlanReader::take_defaults() {
  std::map<std::string, const ParameterDoc*> docs;
  std::vector<std::string> known;
  for (const MethodDoc& selector : catalog_.selectors)
    for (const ParameterDoc& doc : selector.parameters)
      if (docs.try_emplace(doc.path, &doc).second) known.push_back(doc.path);
  for (const std::string& path : known) settable_.push_back("defaults." + path);

  std::vector<PathItem> defaults = overrides_under("defaults.");
  if (const YamlItem item = top_.get("defaults"); item.given())
    for (const PathItem& leaf : flatten(MapReader(item, "defaults", problems_), {}, problems_))
      if (std::none_of(defaults.begin(), defaults.end(),
                       [&](const PathItem& other) { return other.path == leaf.path; }))
        defaults.push_back(leaf);

  std::map<std::string, std::string> places;
  for (const PathItem& leaf : defaults) {
    places[leaf.path] = leaf.item.place;
    if (const auto doc = docs.find(leaf.path); doc != docs.end())
      as_parameter(leaf.item, *doc->second, problems_);
    else
      problems_.add(leaf.item.key_place,
                    fmt::format("defaults: no selector has a parameter {}; did you mean {}? (what a "
                                "refinement takes stands in the method that it refines)",
                                leaf.path, nearest_name(leaf.path, known)));
  }
  if (places.contains("budget.tokens"))
    for (const char* of_ratio : {"budget.ratio", "budget.min_tokens"})
      if (places.contains(of_ratio))
        problems_.add(
            places[of_ratio],
            fmt::format("defaults: {} contradicts budget.tokens (at {}); one of them would be right",
                        of_ratio, places["budget.tokens"]));
  return defaults;
}

/// Overrides below a prefix such as "defaults.", with what follows it as path.
std::vector<PathItem> PlanReader::overrides_under(const std::string& prefix) {
  std::vector<PathItem> found;
  for (const auto& [path, item] : overrides_) {
    if (path.rfind(prefix, 0) != 0) continue;
    // Names may hold dots: methods.a.b.k_min is of the method a.b, where there is one, and not of a.
    if (std::any_of(method_prefixes_.begin(), method_prefixes_.end(),
                    [&, &path = path](const std::string& other) {
                      return other.size() > prefix.size() && path.rfind(other, 0) == 0;
                    }))
      continue;
    used_.insert(path);
    found.push_back({path.substr(prefix.size()), item});
  }
  return found;
}

/// The name of a method: it stands in tables and messages.
std::optional<std::string> PlanReader::take_name(const YamlItem& item) {
  constexpr size_t most = 64;
  const auto name = as_string(item, "method: name", problems_);
  if (!name) return std::nullopt;
  const bool plain = std::none_of(name->begin(), name->end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '=';
  });
  if (plain && name->size() <= most) return name;
  problems_.add(item.place,
                fmt::format("method: name: at most {} characters, none of them '=' or a control character, "
                            "would be right",
                            most));
  return std::nullopt;
}

std::vector<MethodPoint> PlanReader::take_methods(Loop loop) {
  std::vector<MethodPoint> points;
  const std::vector<PathItem> defaults = take_defaults();
  const YamlItem item = top_.get("methods");
  if (!item.given()) {
    require("methods", "a list of methods");
    return points;
  }
  std::vector<std::pair<std::string, MapReader>> named;
  std::map<std::string, std::string> places;
  for (const YamlItem& entry : as_list(item, "methods", problems_)) {
    MapReader method(entry, "method", problems_);
    if (!entry.node.IsMap()) continue;
    const YamlItem name_item = method.get("name");
    if (!name_item.given()) {
      problems_.add(entry.place, "method: name is missing; a name of your choice would be right");
      continue;
    }
    const auto name = take_name(name_item);
    if (!name) continue;
    if (const auto [before, is_new] = places.try_emplace(*name, name_item.place); !is_new) {
      problems_.add(name_item.place,
                    fmt::format("method {}: the name is taken (at {}); another one would be right", *name,
                                before->second));
      continue;
    }
    method_prefixes_.push_back("methods." + *name + ".");
    for (const std::string& path : parameter_paths_) settable_.push_back(method_prefixes_.back() + path);
    named.emplace_back(*name, std::move(method));
  }
  for (const auto& [name, method] : named) {
    const std::vector<PathItem> overrides = overrides_under("methods." + name + ".");
    for (MethodPoint& point : expand_method(method, name, defaults, overrides, catalog_, loop, problems_))
      points.push_back(std::move(point));
  }
  return points;
}

void PlanReader::finish() {
  for (const auto& [path, item] : overrides_)
    if (!used_.contains(path))
      problems_.add(item.place, fmt::format("{} is nothing that can be set; did you mean {}?", path,
                                            nearest_name(path, settable_)));
  if (!problems_.empty()) throw ConfigError(problems_.text());
}

void emit_methods(YAML::Emitter& out, const std::vector<MethodPoint>& points) {
  out << YAML::Key << "methods" << YAML::Value << YAML::BeginSeq;
  for (size_t first = 0; first < points.size();) {
    size_t last = first;
    while (last < points.size() && points[last].name == points[first].name) ++last;
    emit_method(out, points, first, last);
    first = last;
  }
  out << YAML::EndSeq;
}

}  // namespace hindsight
