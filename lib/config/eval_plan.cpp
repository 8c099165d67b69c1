#include "config/eval_plan.h"

#include <fmt/format.h>

#include "config/nearest_name.h"
#include "config/plan_reader.h"

namespace hindsight {
namespace {

const std::vector<std::string> top_level_keys{
    "version", "model",          "mode",      "data",          "sequences",    "tokens",
    "batch",   "device",         "output",    "prompt_tokens", "sampling",     "defaults",
    "methods", "max_new_tokens", "precision", "measure",       "average_steps"};
const std::vector<std::string> precisions{"float32", "storage"};
const std::vector<std::string> modes{"teacher_forced", "generate"};

class EvalPlanLoader {
 public:
  EvalPlanLoader(const std::filesystem::path& file, const MethodCatalog& catalog,
                 const PlanOverrides& overrides)
      : reader_(file, catalog, overrides), problems_(reader_.problems()) {
    plan_.file = file;
  }

  EvalPlan load() {
    reader_.top().refuse_unknown(top_level_keys);
    reader_.take_version();
    take_model();
    take_mode();
    take_sequences();
    plan_.prompt_tokens = take_of("prompt_tokens", EvalMode::teacher_forced, 1);
    plan_.tokens = take_of("tokens", EvalMode::teacher_forced, 3);
    if (plan_.tokens && plan_.prompt_tokens && *plan_.tokens < *plan_.prompt_tokens + 2)
      problems_.add(reader_.get("tokens").place,
                    fmt::format("tokens: {} leave nothing to measure after prompt_tokens = {}; at least {} "
                                "would be right",
                                *plan_.tokens, *plan_.prompt_tokens, *plan_.prompt_tokens + 2));
    plan_.average_steps = take_of("average_steps", EvalMode::teacher_forced, 1).value_or(1);
    plan_.max_new_tokens = take_of("max_new_tokens", EvalMode::generate, 1);
    take_sampling();
    if (const auto batch = reader_.take_integer("batch", 1, 65536)) plan_.batch = *batch;
    plan_.device = reader_.take_device();
    take_measure();
    take_precision();
    plan_.output = reader_.take_output();
    plan_.points = reader_.take_methods(Loop::closed);
    data_ = reader_.take_files("data", "a list of files (.jsonl, or text for byte-level models)");
    reader_.finish();
    plan_.data = reader_.expand("data", data_);
    plan_.resolved_yaml = resolved_yaml();
    return std::move(plan_);
  }

 private:
  void take_model() {
    const YamlItem item = reader_.get("model");
    if (!item.given()) return reader_.require("model", "the folder of a model");
    if (const auto name = as_string(item, "model", problems_)) {
      plan_.model_name = *name;
      plan_.model = (plan_.file.parent_path() / *name).lexically_normal();
    }
  }

  void take_mode() {
    const YamlItem item = reader_.get("mode");
    if (!item.given()) return reader_.require("mode", "teacher_forced or generate");
    const auto mode = as_string(item, "mode", problems_);
    if (!mode) return;
    if (*mode != modes[0] && *mode != modes[1])
      return problems_.add(item.place, fmt::format("mode: '{}' is not known; did you mean {}?", *mode,
                                                   nearest_name(*mode, modes)));
    plan_.mode = *mode == modes[0] ? EvalMode::teacher_forced : EvalMode::generate;
  }

  void take_measure() {
    const YamlItem item = reader_.get("measure");
    if (!item.given()) return;
    for (const YamlItem& entry : as_list(item, "measure", problems_)) {
      const auto what = as_string(entry, "measure", problems_);
      if (!what) continue;
      if (*what != "recall")
        problems_.add(entry.place,
                      fmt::format("measure: '{}' is not known; recall (how much of the true mass is "
                                  "loaded, beside what is measured anyway) would be right",
                                  *what));
      plan_.measure_recall = true;
    }
  }

  void take_precision() {
    const YamlItem item = reader_.get("precision");
    if (!item.given()) return;
    const auto precision = as_string(item, "precision", problems_);
    if (!precision) return;
    if (*precision != precisions[0] && *precision != precisions[1])
      return problems_.add(item.place,
                           fmt::format("precision: '{}' is not known; float32, or storage (activations and "
                                       "cache in the type of the weights) would be right",
                                       *precision));
    plan_.precision = *precision == precisions[0] ? EvalPrecision::float32 : EvalPrecision::storage;
  }

  void take_sequences() {
    const YamlItem item = reader_.get("sequences");
    if (item.given() && !(item.node.IsScalar() && item.node.Scalar() == "all"))
      plan_.sequences = reader_.in_range(item, "sequences", 1);
  }

  /// A number that only one mode has a use for.
  std::optional<int64_t> take_of(const std::string& key, EvalMode mode, int64_t least) {
    const YamlItem item = reader_.get(key);
    if (item.given() && plan_.mode != mode)
      problems_.add(item.key_place,
                    fmt::format("{}: has no meaning in mode {}; leave it out", key, name_of(plan_.mode)));
    return reader_.in_range(item, key, least, int64_t{1} << 30);
  }

  void take_sampling() {
    const MapReader sampling = reader_.section("sampling");
    sampling.refuse_unknown({"temperature", "seed"});
    const YamlItem temperature = reader_.get("sampling.temperature", sampling, "temperature");
    const YamlItem seed = reader_.get("sampling.seed", sampling, "seed");
    for (const YamlItem* item : {&temperature, &seed})
      if (item->given() && plan_.mode != EvalMode::generate)
        problems_.add(item->key_place, "sampling: has no meaning in mode teacher_forced; leave it out");
    if (temperature.given())
      if (const auto value = as_real(temperature, "sampling.temperature", problems_)) {
        if (*value < 0)
          problems_.add(temperature.place,
                        "sampling.temperature: is negative; 0 (greedy) or more would be right");
        plan_.temperature = *value;
      }
    if (const auto value = reader_.in_range(seed, "sampling.seed", 0)) plan_.seed = *value;
  }

  std::string resolved_yaml() const {
    YAML::Emitter out;
    const auto key = [&](const char* name) -> YAML::Emitter& {
      return out << YAML::Key << name << YAML::Value;
    };
    out << YAML::BeginMap;
    key("version") << 1;
    key("model") << plan_.model_name;
    key("mode") << name_of(plan_.mode);
    key("data") << YAML::BeginSeq;
    for (const FilePattern& file : data_) out << file.pattern;
    out << YAML::EndSeq;
    if (plan_.sequences)
      key("sequences") << *plan_.sequences;
    else
      key("sequences") << "all";
    if (plan_.prompt_tokens) key("prompt_tokens") << *plan_.prompt_tokens;
    if (plan_.tokens) key("tokens") << *plan_.tokens;
    if (plan_.average_steps > 1) key("average_steps") << plan_.average_steps;
    if (plan_.max_new_tokens) key("max_new_tokens") << *plan_.max_new_tokens;
    if (plan_.mode == EvalMode::generate) {
      key("sampling") << YAML::Flow << YAML::BeginMap;
      key("temperature") << fmt::format("{}", plan_.temperature);
      key("seed") << plan_.seed << YAML::EndMap;
    }
    key("batch") << plan_.batch;
    key("device") << plan_.device;
    if (plan_.measure_recall) key("measure") << YAML::Flow << YAML::BeginSeq << "recall" << YAML::EndSeq;
    if (plan_.precision == EvalPrecision::storage) key("precision") << precisions[1];
    key("output") << reader_.relative(plan_.output);
    emit_methods(out, plan_.points);
    out << YAML::EndMap;
    return std::string(out.c_str()) + "\n";
  }

  PlanReader reader_;
  Problems& problems_;
  std::vector<FilePattern> data_;
  EvalPlan plan_;
};

}  // namespace

std::string name_of(EvalMode mode) { return modes[mode == EvalMode::teacher_forced ? 0 : 1]; }

EvalPlan load_eval_plan(const std::filesystem::path& file, const MethodCatalog& catalog,
                        const PlanOverrides& overrides) {
  return EvalPlanLoader(file, catalog, overrides).load();
}

}  // namespace hindsight
