#pragma once
// What the configurations of replays and of evaluations have in common: version, device, output, files, and
// the sweep of methods; with what the command line overrides.

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/method_sweep.h"
#include "config/sweep_plan.h"
#include "config/yaml_reader.h"

namespace hindsight {

/// A path of the configuration that may be a glob, and where it stands.
struct FilePattern {
  std::string pattern, place;
};

/// Takes a configuration apart, key by key. Problems are collected; finish() throws them all.
class PlanReader {
 public:
  PlanReader(const std::filesystem::path& file, const MethodCatalog& catalog, const PlanOverrides& overrides);

  const MapReader& top() const { return top_; }
  Problems& problems() { return problems_; }

  /// The value at a top-level path ("repeats", "steps.count"): from the command line, else from `map`.
  YamlItem get(const std::string& path, const MapReader& map, const std::string& key);
  YamlItem get(const std::string& key) { return get(key, top_, key); }
  /// The map under a top-level key; empty where the key is not there.
  MapReader section(const std::string& key);

  static constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();
  std::optional<int64_t> in_range(const YamlItem& item, const std::string& what, int64_t least,
                                  int64_t most = no_limit);
  std::optional<int64_t> take_integer(const std::string& key, int64_t least, int64_t most) {
    return in_range(get(key), key, least, most);
  }
  /// Adds a problem where a key that must be there is not.
  void require(const std::string& key, const std::string& right);

  void take_version();
  /// auto | cpu | cuda | cuda:N; "auto" where the key is not there.
  std::string take_device();
  /// The command line's, the configuration's, or results/<name of the configuration>.h5 beside it.
  std::filesystem::path take_output();
  /// One path or a list of them; `right` says what would be right where the key is missing.
  std::vector<FilePattern> take_files(const std::string& key, const std::string& right);
  std::vector<MethodPoint> take_methods(Loop loop);

  /// Throws ConfigError with all problems, overrides of nothing among them.
  void finish();
  /// The files that the patterns stand for: globs expanded, sorted within a glob, each once. Throws
  /// TraceError where a glob has no match.
  std::vector<TraceFile> expand(const std::string& key, const std::vector<FilePattern>& patterns) const;
  /// A path as the configuration's folder sees it.
  std::string relative(const std::filesystem::path& path) const;

 private:
  void take_overrides(const std::vector<std::string>& texts);
  std::vector<std::filesystem::path> files_of(const std::string& pattern) const;
  std::string name_of(const std::filesystem::path& file, const std::filesystem::path& pattern) const;
  std::vector<PathItem> take_defaults();
  std::vector<PathItem> overrides_under(const std::string& prefix);
  std::optional<std::string> take_name(const YamlItem& item);

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
  std::optional<std::filesystem::path> override_output_;
};

/// `methods: [...]` of a resolved configuration: what the points of a method share as values, the rest as a
/// zip.
void emit_methods(YAML::Emitter& out, const std::vector<MethodPoint>& points);

}  // namespace hindsight
