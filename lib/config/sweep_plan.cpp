#include "config/sweep_plan.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string_view>

#include "config/method_sweep.h"
#include "config/nearest_name.h"
#include "core/error.h"

namespace hindsight {
namespace {

const std::vector<std::string> top_level_keys{"version", "traces", "layers", "steps",    "device", "measure",
                                              "repeats", "batch",  "output", "defaults", "methods"};

class PlanLoader {
 public:
  PlanLoader(const std::filesystem::path& file, const MethodCatalog& catalog, const PlanOverrides& overrides)
      : file_(file),
        name_(file.string()),
        catalog_(catalog),
        root_(load_yaml_map(file)),
        top_(whole_file(root_, name_), "configuration", problems_),
        override_device_(overrides.device) {
    plan_.file = file;
    take_overrides(overrides.set);
    if (overrides.output) plan_.output = *overrides.output;
    for (const auto* docs : {&catalog.selectors, &catalog.refinements})
      for (const MethodDoc& doc : *docs)
        for (const ParameterDoc& parameter : doc.parameters) parameter_paths_.insert(parameter.path);
  }

  SweepPlan load() {
    top_.refuse_unknown(top_level_keys);
    take_version();
    take_layers();
    take_steps();
    take_device();
    take_measure();
    if (const auto repeats = take_integer("repeats", 1, 1000000)) plan_.repeats = *repeats;
    if (const auto batch = take_integer("batch", 1, 65536)) plan_.batch = *batch;
    take_output();
    take_methods();
    take_traces();
    for (const auto& [path, item] : overrides_)
      if (!used_.contains(path))
        problems_.add(item.place, fmt::format("{} is nothing that can be set; did you mean {}?", path,
                                              nearest_name(path, settable_)));
    if (!problems_.empty()) throw ConfigError(problems_.text());
    expand_globs();
    plan_.resolved_yaml = resolved_yaml();
    return std::move(plan_);
  }

 private:
  void take_overrides(const std::vector<std::string>& texts) {
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

  /// The value at a top-level path ("repeats", "steps.count"): from the command line, else from `map`.
  YamlItem get(const std::string& path, const MapReader& map, const std::string& key) {
    settable_.push_back(path);
    if (const auto found = overrides_.find(path); found != overrides_.end()) {
      used_.insert(path);
      return found->second;
    }
    return map.get(key);
  }
  YamlItem get(const std::string& key) { return get(key, top_, key); }

  static constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

  std::optional<int64_t> in_range(const YamlItem& item, const std::string& what, int64_t least,
                                  int64_t most = no_limit) {
    if (!item.given()) return std::nullopt;
    const auto value = as_integer(item, what, problems_);
    if (!value || (*value >= least && *value <= most)) return value;
    const std::string right =
        most == no_limit ? fmt::format("at least {}", least) : fmt::format("{} to {}", least, most);
    problems_.add(item.place, fmt::format("{}: {} is out of range; {} would be right", what, *value, right));
    return std::nullopt;
  }
  std::optional<int64_t> take_integer(const std::string& key, int64_t least, int64_t most) {
    return in_range(get(key), key, least, most);
  }

  void take_version() {
    const YamlItem item = top_.get("version");
    if (!item.given()) return problems_.add(name_ + ":1:1", "version is missing; version: 1 would be right");
    const auto version = as_integer(item, "version", problems_);
    if (version && *version != 1)
      problems_.add(item.place, fmt::format("version: {} is not known; 1 would be right", *version));
  }

  void take_layers() {
    const YamlItem item = get("layers");
    if (!item.given() || (item.node.IsScalar() && item.node.Scalar() == "all")) return;
    if (!item.node.IsSequence())
      return problems_.add(item.place, "layers: is no list; all, or a list such as [2, 5] would be right");
    std::vector<int64_t> layers;
    for (const YamlItem& entry : as_list(item, "layers", problems_)) {
      const auto layer = in_range(entry, "layers", 0);
      if (!layer) continue;
      if (std::find(layers.begin(), layers.end(), *layer) != layers.end())
        problems_.add(entry.place, fmt::format("layers: {} stands twice; once would be right", *layer));
      layers.push_back(*layer);
    }
    plan_.layers = layers;
  }

  void take_steps() {
    const YamlItem item = top_.get("steps");
    const MapReader steps(item.given() ? item : whole_file(YAML::Node(YAML::NodeType::Map), name_), "steps",
                          problems_);
    steps.refuse_unknown({"from", "count"});
    if (const auto from = in_range(get("steps.from", steps, "from"), "steps.from", 0))
      plan_.steps.from = *from;
    const YamlItem count = get("steps.count", steps, "count");
    if (count.given() && !(count.node.IsScalar() && count.node.Scalar() == "all"))
      plan_.steps.count = in_range(count, "steps.count", 1);
  }

  void take_device() {
    const YamlItem in_file = get("device");
    const std::string argument = override_device_ ? "--device " + *override_device_ : "";
    const YamlItem item =
        override_device_ ? YamlItem{YAML::Node(*override_device_), argument, "", argument} : in_file;
    if (!item.given()) return;
    const auto device = as_string(item, "device", problems_);
    if (!device) return;
    const std::string number = device->rfind("cuda:", 0) == 0 ? device->substr(5) : "";
    const bool numbered =
        !number.empty() && number.size() <= 3 &&
        std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (*device != "auto" && *device != "cpu" && *device != "cuda" && !numbered)
      return problems_.add(
          item.place,
          fmt::format("device: '{}' is not known; auto, cpu, cuda or cuda:N would be right", *device));
    plan_.device = *device;
  }

  void take_measure() {
    const YamlItem item = get("measure");
    if (!item.given()) return;
    const std::vector<YamlItem> entries = as_list(item, "measure", problems_);
    plan_.measure_fidelity = plan_.measure_latency = false;
    for (const YamlItem& entry : entries) {
      const auto what = as_string(entry, "measure", problems_);
      if (!what) continue;
      bool* chosen = *what == "fidelity"  ? &plan_.measure_fidelity
                     : *what == "latency" ? &plan_.measure_latency
                                          : nullptr;
      if (!chosen)
        problems_.add(entry.place, fmt::format("measure: '{}' is not known; did you mean {}?", *what,
                                               nearest_name(*what, {"fidelity", "latency"})));
      else if (*chosen)
        problems_.add(entry.place, fmt::format("measure: {} stands twice; once would be right", *what));
      else
        *chosen = true;
    }
  }

  void take_output() {
    const YamlItem item = get("output");
    const std::filesystem::path folder = file_.parent_path();
    std::filesystem::path output = folder / "results" / (file_.stem().string() + ".h5");
    if (item.given())
      if (const auto path = as_string(item, "output", problems_)) output = folder / *path;
    if (plan_.output.empty()) plan_.output = output.lexically_normal();
  }

  void take_traces() {
    const YamlItem item = get("traces");
    if (!item.given())
      return problems_.add(name_ + ":1:1", "traces is missing; a list of trace files would be right");
    std::vector<YamlItem> entries;
    if (item.node.IsScalar())
      entries = {item};
    else
      entries = as_list(item, "traces", problems_);
    for (const YamlItem& entry : entries)
      if (const auto pattern = as_string(entry, "traces", problems_))
        trace_patterns_.emplace_back(*pattern, entry.place);
  }

  /// What a pattern of the configuration stands for; empty where a glob matches nothing.
  std::vector<std::filesystem::path> files_of(const std::string& pattern) const {
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
  std::string name_of(const std::filesystem::path& file, const std::filesystem::path& pattern) const {
    if (pattern.is_absolute()) return file.string();
    return file.lexically_proximate(file_.parent_path().lexically_normal()).generic_string();
  }

  void expand_globs() {
    Problems unmatched;
    for (const auto& [pattern, place] : trace_patterns_) {
      const std::vector<std::filesystem::path> found = files_of(pattern);
      if (found.empty())
        unmatched.add(
            place, fmt::format("traces: no file matches {}; a pattern with at least one match would be right",
                               (file_.parent_path() / pattern).lexically_normal().string()));
      for (const std::filesystem::path& file : found)
        if (std::none_of(plan_.traces.begin(), plan_.traces.end(),
                         [&](const TraceFile& other) { return other.file == file; }))
          plan_.traces.push_back({file, name_of(file, pattern), place});
    }
    if (!unmatched.empty()) throw TraceError(unmatched.text());
  }

  /// Checked here once, whether or not a method uses them.
  std::vector<PathItem> take_defaults() {
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
  std::vector<PathItem> overrides_under(const std::string& prefix) {
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
  std::optional<std::string> take_name(const YamlItem& item) {
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

  void take_methods() {
    const std::vector<PathItem> defaults = take_defaults();
    const YamlItem item = top_.get("methods");
    if (!item.given())
      return problems_.add(name_ + ":1:1", "methods is missing; a list of methods would be right");
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
      for (MethodPoint& point :
           expand_method(method, name, defaults, overrides, catalog_, Loop::open, problems_))
        plan_.points.push_back(std::move(point));
    }
  }

  /// The configuration with everything said: in the folder of the file it can be run as it is.
  std::string resolved_yaml() const {
    YAML::Emitter out;
    out << YAML::BeginMap << YAML::Key << "version" << YAML::Value << 1;
    out << YAML::Key << "traces" << YAML::Value << YAML::BeginSeq;
    for (const auto& [pattern, place] : trace_patterns_) out << pattern;
    out << YAML::EndSeq << YAML::Key << "layers" << YAML::Value;
    if (plan_.layers)
      out << YAML::Flow << *plan_.layers;
    else
      out << "all";
    out << YAML::Key << "steps" << YAML::Value << YAML::Flow << YAML::BeginMap << YAML::Key << "from"
        << YAML::Value << plan_.steps.from << YAML::Key << "count" << YAML::Value;
    if (plan_.steps.count)
      out << *plan_.steps.count;
    else
      out << "all";
    out << YAML::EndMap << YAML::Key << "device" << YAML::Value << plan_.device;
    out << YAML::Key << "measure" << YAML::Value << YAML::Flow << YAML::BeginSeq;
    if (plan_.measure_fidelity) out << "fidelity";
    if (plan_.measure_latency) out << "latency";
    out << YAML::EndSeq << YAML::Key << "repeats" << YAML::Value << plan_.repeats;
    out << YAML::Key << "batch" << YAML::Value << plan_.batch;
    out << YAML::Key << "output" << YAML::Value
        << plan_.output.lexically_proximate(file_.parent_path()).generic_string();
    out << YAML::Key << "methods" << YAML::Value << YAML::BeginSeq;
    for (size_t first = 0; first < plan_.points.size();) {
      size_t last = first;
      while (last < plan_.points.size() && plan_.points[last].name == plan_.points[first].name) ++last;
      emit_method(out, first, last);
      first = last;
    }
    out << YAML::EndSeq << YAML::EndMap;
    return std::string(out.c_str()) + "\n";
  }

  /// Points [first, last) of one method: what they share as values, the rest as a zip.
  void emit_method(YAML::Emitter& out, size_t first, size_t last) const {
    const MethodPoint& base = plan_.points[first];
    out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << base.name << YAML::Key << "selector"
        << YAML::Value << base.selector;
    std::vector<std::string> varying;
    for (const auto& [path, value] : base.parameters.values()) {
      const bool shared = std::all_of(plan_.points.begin() + static_cast<std::ptrdiff_t>(first),
                                      plan_.points.begin() + static_cast<std::ptrdiff_t>(last),
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
          out << text_of(plan_.points[point].parameters.values().at(path));
        out << YAML::EndSeq;
      }
      out << YAML::EndMap;
    }
    out << YAML::EndMap;
  }

  std::filesystem::path file_;
  std::string name_;
  const MethodCatalog& catalog_;
  Problems problems_;
  YAML::Node root_;
  MapReader top_;
  std::map<std::string, YamlItem> overrides_;
  std::set<std::string> used_;                // of the overrides
  std::set<std::string> parameter_paths_;     // of all selectors and refinements
  std::vector<std::string> method_prefixes_;  // "methods.<name>."
  std::vector<std::string> settable_;         // paths that --set may name, for suggestions
  std::optional<std::string> override_device_;
  std::vector<std::pair<std::string, std::string>> trace_patterns_;  // pattern, place
  SweepPlan plan_;
};

}  // namespace

SweepPlan load_plan(const std::filesystem::path& file, const MethodCatalog& catalog,
                    const PlanOverrides& overrides) {
  return PlanLoader(file, catalog, overrides).load();
}

}  // namespace hindsight
