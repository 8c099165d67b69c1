#pragma once
// Typed, strict access to YAML. Every value knows its place; every problem is collected with its place, so
// that all are reported at once. yaml-cpp alone would accept duplicate keys, read 010 as 8 and swallow wrong
// types under defaults.

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/parameters.h"

namespace hindsight {

/// A YAML value and where it stands: "file:line:column", or "--set path=value".
struct YamlItem {
  YAML::Node node;
  std::string place;
  std::string file;       ///< empty: from the command line, where all parts have one place
  std::string key_place;  ///< of the key that the value stands under; its own place where there is none
  bool given() const { return node.IsDefined(); }
  /// A node inside this value, at its own place.
  YamlItem part(const YAML::Node& inner) const;
};

/// The whole of a file, whose parts have places.
YamlItem whole_file(const YAML::Node& node, const std::string& file);

/// Problems found so far, one line each: "<place>: <what is wrong>; <what would be right>".
class Problems {
 public:
  /// Nothing where the same is said already: one wrong default concerns many methods.
  void add(const std::string& place, const std::string& what);
  bool empty() const { return lines_.empty(); }
  /// All lines, joined.
  std::string text() const;

 private:
  std::vector<std::string> lines_;
};

/// Loads the one document of a file. Throws ConfigError: missing, a folder, larger than any configuration,
/// empty, not YAML, no map, too deep or too large once aliases are followed.
YAML::Node load_yaml_map(const std::filesystem::path& file);
/// Parses a value given on the command line; nothing, and a problem, where it is not YAML.
std::optional<YamlItem> parse_yaml_value(const std::string& text, const std::string& place,
                                         Problems& problems);

/// Strict conversions; what does not convert is added to `problems` (naming `what`) and gives nothing.
std::optional<int64_t> as_integer(const YamlItem& item, const std::string& what, Problems& problems);
std::optional<double> as_real(const YamlItem& item, const std::string& what, Problems& problems);
std::optional<std::string> as_string(const YamlItem& item, const std::string& what, Problems& problems);
/// The items of a list that is not empty.
std::vector<YamlItem> as_list(const YamlItem& item, const std::string& what, Problems& problems);
/// A value of a parameter, in its range or among its choices.
std::optional<ParameterValue> as_parameter(const YamlItem& item, const ParameterDoc& doc, Problems& problems);

/// A map's entries, each key once.
class MapReader {
 public:
  /// Adds a problem and holds nothing where the item is no map; duplicate keys and keys that are no text are
  /// problems.
  MapReader(const YamlItem& item, std::string what, Problems& problems);
  const std::string& place() const { return place_; }
  /// The value of a key; not given() where the map lacks it.
  YamlItem get(const std::string& key) const;
  const std::vector<std::pair<std::string, YamlItem>>& entries() const { return entries_; }
  /// Adds a problem for every key that is not `known`, naming the nearest known one.
  void refuse_unknown(const std::vector<std::string>& known) const;

 private:
  std::string what_, place_;
  Problems& problems_;
  std::vector<std::pair<std::string, YamlItem>> entries_;
};

}  // namespace hindsight
