#pragma once
// Parameters of methods: what there is (ParameterDoc), what was chosen (ParameterSet).
// A parameter is named by its dotted path in the configuration, e.g. "budget.ratio".

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hindsight {

using ParameterValue = std::variant<int64_t, double, std::string>;
/// As written in configurations and tables; reals in the fewest digits that read back as the same value.
std::string text_of(const ParameterValue& value);
enum class ParameterType { integer, real, choice };

/// One parameter as the user meets it: in `hindsight methods`, in configurations, as a column of /summary.
struct ParameterDoc {
  std::string path;  ///< dotted path, "retro.window"
  ParameterType type = ParameterType::integer;
  std::optional<ParameterValue> default_value;  ///< none: absent unless given
  double minimum = 0, maximum = 0;              ///< inclusive; of integer and real
  bool minimum_excluded = false;                ///< (minimum, maximum]
  std::vector<std::string> choices;             ///< of choice
  std::string unit;                             ///< "tokens", "pages", "" for none
  std::string summary;                          ///< one line
  std::string source;                           ///< paper section, or "our choice"
  bool closed_loop_only = false;                ///< has no meaning in a replay, which refuses it
};

/// What a method runs in: a replay of what was captured, or a model that decodes.
enum class Loop { open, closed };

/// The values of one point, complete: every parameter of its method that has a value.
class ParameterSet {
 public:
  bool has(std::string_view path) const { return values_.find(path) != values_.end(); }
  /// Throws std::out_of_range (path named) where absent, std::bad_variant_access where of another type.
  int64_t integer(std::string_view path) const;
  double real(std::string_view path) const;
  const std::string& choice(std::string_view path) const;
  void set(const std::string& path, ParameterValue value) { values_[path] = std::move(value); }
  /// Sorted by path.
  const std::map<std::string, ParameterValue, std::less<>>& values() const { return values_; }
  bool operator==(const ParameterSet&) const = default;

 private:
  std::map<std::string, ParameterValue, std::less<>> values_;
};

/// What the configuration must know of a method to check it; lib/methods provides the list of all.
struct MethodDoc {
  std::string name;  ///< "quest"
  std::string summary, source;
  std::string preset_of;                 ///< "quest" for quest_eval, else empty
  bool evicts = false;                   ///< what it drops never comes back: refinements refuse it
  std::string refusal;                   ///< why `retro` cannot refine it, where evicts
  std::vector<ParameterDoc> parameters;  ///< common ones included; a preset differs from its base in defaults
};

/// All selectors and refinements there are. A plain value: config does not depend on methods.
/// A refinement's parameters all start with its name and a dot ("retro.window"); it is applied to a selector
/// when any is given.
struct MethodCatalog {
  std::vector<MethodDoc> selectors;
  std::vector<MethodDoc> refinements;
  const MethodDoc* find_selector(std::string_view name) const;
};

}  // namespace hindsight
