#include "config/yaml_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/depthguard.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <sstream>

#include "config/nearest_name.h"
#include "core/error.h"

namespace hindsight {
namespace {

bool is_null(const YAML::Node& node) {
  return node.IsNull() || (node.IsScalar() && node.Tag() != "!" &&
                           (node.Scalar().empty() || node.Scalar() == "~" || node.Scalar() == "null"));
}

/// Quoted scalars carry the tag "!": they are text, whatever they look like.
bool is_quoted(const YAML::Node& node) { return node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str"; }

/// "file:line:column" of a node.
std::string place_of(const std::string& file, const YAML::Node& node) {
  const YAML::Mark mark = node.Mark();
  return mark.line < 0 ? file : fmt::format("{}:{}:{}", file, mark.line + 1, mark.column + 1);
}

/// What a user wrote may hold line ends or bytes that upset a terminal; a message is one line.
std::string on_one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      line += fmt::format("\\x{:02x}", byte);
    else
      line += c;
  }
  return line;
}

std::string shortened(const std::string& text) {
  size_t most = 60;
  if (text.size() <= most) return text;
  while ((static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) --most;  // not inside a UTF-8 character
  return text.substr(0, most) + "...";
}

std::string kind_of(const YAML::Node& node) {
  if (is_null(node)) return "nothing";
  if (node.IsMap()) return "a map";
  if (node.IsSequence()) return "a list";
  const std::string text = shortened(node.Scalar());
  return is_quoted(node) ? fmt::format("the text \"{}\"", text) : fmt::format("'{}'", text);
}

/// Follows every alias: a small file can stand for billions of values.
void check_size(const YAML::Node& node, const std::string& file, int depth, int& visited) {
  constexpr int most_depth = 16, most_values = 100000;
  if (depth > most_depth || ++visited > most_values)
    throw ConfigError(
        fmt::format("{}: nested more than {} deep or more than {} values; a configuration is smaller",
                    place_of(file, node), most_depth, most_values));
  if (node.IsMap())
    for (const auto& entry : node) {
      check_size(entry.first, file, depth + 1, visited);
      check_size(entry.second, file, depth + 1, visited);
    }
  if (node.IsSequence())
    for (const auto& entry : node) check_size(entry, file, depth + 1, visited);
}

}  // namespace

std::string Problems::text() const { return fmt::format("{}", fmt::join(lines_, "\n")); }

YamlItem YamlItem::part(const YAML::Node& inner) const {
  const std::string inner_place = file.empty() || inner.Mark().line < 0 ? place : place_of(file, inner);
  return {inner, inner_place, file, inner_place};
}

YamlItem whole_file(const YAML::Node& node, const std::string& file) { return {node, file, file, file}; }

void Problems::add(const std::string& place, const std::string& what) {
  std::string line = on_one_line(place + ": " + what);
  if (std::find(lines_.begin(), lines_.end(), line) == lines_.end()) lines_.push_back(std::move(line));
}

YAML::Node load_yaml_map(const std::filesystem::path& file) {
  constexpr std::uintmax_t most_bytes = 1 << 20;
  const std::string name = file.string();
  std::error_code ignored;  // a path that cannot even be looked up names no file
  if (!std::filesystem::exists(file, ignored))
    throw ConfigError(
        fmt::format("{}: no such file; the path of a configuration (YAML) would be right", name));
  if (!std::filesystem::is_regular_file(file, ignored))
    throw ConfigError(fmt::format("{}: not a regular file; a configuration (YAML) would be right", name));
  if (const std::uintmax_t bytes = std::filesystem::file_size(file, ignored); bytes > most_bytes)
    throw ConfigError(
        fmt::format("{}: {} bytes are no configuration; at most {} would be right", name, bytes, most_bytes));
  std::ifstream stream(file, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  if (!stream) throw ConfigError(fmt::format("{}: cannot be read", name));
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(text.str());
  } catch (const YAML::DeepRecursion& error) {
    throw ConfigError(fmt::format("{}:{}:{}: nested {} deep; a configuration is flatter", name,
                                  error.mark.line + 1, error.mark.column + 1, error.depth()));
  } catch (const YAML::Exception& error) {
    throw ConfigError(fmt::format("{}:{}:{}: not YAML: {}", name, error.mark.line + 1, error.mark.column + 1,
                                  on_one_line(error.msg)));
  }
  if (documents.empty() || is_null(documents.front()))
    throw ConfigError(
        fmt::format("{}:1:1: empty; a map with version, traces and methods would be right", name));
  if (documents.size() > 1)
    throw ConfigError(fmt::format("{}: holds {} documents; one would be right", place_of(name, documents[1]),
                                  documents.size()));
  if (!documents.front().IsMap())
    throw ConfigError(fmt::format("{}: is {}; a map with version, traces and methods would be right",
                                  place_of(name, documents.front()), kind_of(documents.front())));
  int visited = 0;
  check_size(documents.front(), name, 0, visited);
  return documents.front();
}

std::optional<YamlItem> parse_yaml_value(const std::string& text, const std::string& place,
                                         Problems& problems) {
  try {
    return YamlItem{YAML::Load(text), place, "", place};
  } catch (const YAML::Exception& error) {
    problems.add(place, "the value is not YAML: " + error.msg);
    return std::nullopt;
  }
}

std::optional<int64_t> as_integer(const YamlItem& item, const std::string& what, Problems& problems) {
  const auto refuse = [&](const std::string& got) {
    problems.add(item.place, fmt::format("{}: {}; an integer would be right", what, got));
    return std::nullopt;
  };
  if (!item.node.IsScalar() || is_null(item.node) || is_quoted(item.node))
    return refuse("is " + kind_of(item.node));
  const std::string& text = item.node.Scalar();
  const size_t digits = text[0] == '-' ? 1 : 0;
  if (text.size() == digits || !std::all_of(text.begin() + static_cast<std::ptrdiff_t>(digits), text.end(),
                                            [](char c) { return c >= '0' && c <= '9'; }))
    return refuse("is " + kind_of(item.node));
  if (text.size() > digits + 1 && text[digits] == '0')
    return refuse(fmt::format("'{}' has a leading zero, which some readers take as octal", text));
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return refuse(fmt::format("'{}' is too large", text));
  return value;
}

std::optional<double> as_real(const YamlItem& item, const std::string& what, Problems& problems) {
  const auto refuse = [&] {
    problems.add(item.place, fmt::format("{}: is {}; a number would be right", what, kind_of(item.node)));
    return std::nullopt;
  };
  if (!item.node.IsScalar() || is_null(item.node) || is_quoted(item.node)) return refuse();
  const std::string& text = item.node.Scalar();
  // No hexadecimal, no infinity, no NaN, no octal look-alikes.
  if (text.find_first_not_of("0123456789+-.eE") != std::string::npos) return refuse();
  if (text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9') return refuse();
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return refuse();
  return value;
}

std::optional<std::string> as_string(const YamlItem& item, const std::string& what, Problems& problems) {
  if (!item.node.IsScalar() || is_null(item.node) || item.node.Scalar().empty()) {
    problems.add(item.place, fmt::format("{}: is {}; a text would be right", what, kind_of(item.node)));
    return std::nullopt;
  }
  return item.node.Scalar();
}

std::vector<YamlItem> as_list(const YamlItem& item, const std::string& what, Problems& problems) {
  std::vector<YamlItem> items;
  if (!item.node.IsSequence() || item.node.size() == 0) {
    problems.add(item.place, fmt::format("{}: is {}; a list of at least one value would be right", what,
                                         item.node.IsSequence() ? "empty" : kind_of(item.node)));
    return items;
  }
  for (const auto& node : item.node) items.push_back(item.part(node));
  return items;
}

std::optional<ParameterValue> as_parameter(const YamlItem& item, const ParameterDoc& doc,
                                           Problems& problems) {
  const auto out_of_range = [&](const std::string& value, const std::string& right) {
    problems.add(item.place,
                 fmt::format("{}: {} is out of range; {} would be right", doc.path, value, right));
    return std::nullopt;
  };
  switch (doc.type) {
    case ParameterType::integer: {
      const auto value = as_integer(item, doc.path, problems);
      if (!value) return std::nullopt;
      if (static_cast<double>(*value) < doc.minimum || static_cast<double>(*value) > doc.maximum)
        return out_of_range(fmt::format("{}", *value), fmt::format("{} to {}", doc.minimum, doc.maximum));
      return *value;
    }
    case ParameterType::real: {
      const auto value = as_real(item, doc.path, problems);
      if (!value) return std::nullopt;
      if (*value < doc.minimum || *value > doc.maximum || (doc.minimum_excluded && *value == doc.minimum))
        return out_of_range(
            fmt::format("{}", *value),
            fmt::format("{} {} to {}", doc.minimum_excluded ? "above" : "from", doc.minimum, doc.maximum));
      return *value;
    }
    case ParameterType::choice:
      break;
  }
  const auto value = as_string(item, doc.path, problems);
  if (!value) return std::nullopt;
  if (std::find(doc.choices.begin(), doc.choices.end(), *value) == doc.choices.end()) {
    problems.add(item.place, fmt::format("{}: '{}' is no choice; {} would be right, did you mean {}?",
                                         doc.path, shortened(*value), fmt::join(doc.choices, " or "),
                                         nearest_name(*value, doc.choices)));
    return std::nullopt;
  }
  return *value;
}

MapReader::MapReader(const YamlItem& item, std::string what, Problems& problems)
    : what_(std::move(what)), place_(item.place), problems_(problems) {
  if (!item.node.IsMap()) {
    problems.add(item.place, fmt::format("{}: is {}; a map would be right", what_, kind_of(item.node)));
    return;
  }
  for (const auto& entry : item.node) {
    const std::string key_place = item.part(entry.first).place;
    if (!entry.first.IsScalar() || is_null(entry.first)) {
      problems.add(key_place,
                   fmt::format("{}: a key is {}; a name would be right", what_, kind_of(entry.first)));
      continue;
    }
    const std::string key = entry.first.Scalar();
    if (get(key).given()) {
      problems.add(key_place, fmt::format("{}: key {} stands here twice; once would be right", what_, key));
      continue;
    }
    YamlItem value = item.part(entry.second);
    value.key_place = key_place;
    if (is_null(entry.second)) value.place = key_place;  // nothing stands nowhere
    entries_.emplace_back(key, std::move(value));
  }
}

YamlItem MapReader::get(const std::string& key) const {
  for (const auto& [name, item] : entries_)
    if (name == key) return item;
  return {YAML::Node(YAML::NodeType::Undefined), place_, "", place_};
}

void MapReader::refuse_unknown(const std::vector<std::string>& known) const {
  for (const auto& [key, item] : entries_)
    if (std::find(known.begin(), known.end(), key) == known.end())
      problems_.add(item.key_place, fmt::format("{}: key {} is not known; did you mean {}?", what_,
                                                shortened(key), nearest_name(key, known)));
}

}  // namespace hindsight
