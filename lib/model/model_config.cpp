#include "model/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/mapped_file.h"

namespace hindsight {
namespace {

using Json = nlohmann::json;

constexpr size_t most_config_bytes = 1 << 20;
constexpr std::array<const char*, 4> families{"llama", "mistral", "qwen2", "qwen3"};

/// Typed access to a JSON object that names file and key in what it refuses. null is as good as absent.
class JsonReader {
 public:
  JsonReader(std::string file, std::string prefix, const Json& object)
      : file_(std::move(file)), prefix_(std::move(prefix)), object_(object) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& what) const {
    throw ModelError(fmt::format("{}: {}{}: {}", file_, prefix_, key, what));
  }
  bool has(const std::string& key) const { return object_.contains(key) && !object_[key].is_null(); }

  int64_t integer(const std::string& key, int64_t least, int64_t most,
                  std::optional<int64_t> otherwise = {}) const {
    if (!has(key)) {
      if (otherwise) return *otherwise;
      refuse(key, "is missing; an integer would be right");
    }
    const Json& value = object_[key];
    if (!value.is_number_integer())
      refuse(key, fmt::format("is {}; an integer would be right", shown(value)));
    const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{1} << 62;
    if (too_large || value.get<int64_t>() < least || value.get<int64_t>() > most)
      refuse(key, fmt::format("{} is out of range; {} to {} would be right", shown(value), least, most));
    return value.get<int64_t>();
  }
  /// A positive number.
  double positive(const std::string& key, std::optional<double> otherwise = {}) const {
    if (!has(key)) {
      if (otherwise) return *otherwise;
      refuse(key, "is missing; a number would be right");
    }
    const Json& value = object_[key];
    if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0)
      refuse(key, fmt::format("is {}; a positive number would be right", shown(value)));
    return value.get<double>();
  }
  bool boolean(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!object_[key].is_boolean())
      refuse(key, fmt::format("is {}; true or false would be right", shown(object_[key])));
    return object_[key].get<bool>();
  }
  std::string text(const std::string& key, std::optional<std::string> otherwise = {}) const {
    if (!has(key)) {
      if (otherwise) return *otherwise;
      refuse(key, "is missing; a text would be right");
    }
    if (!object_[key].is_string())
      refuse(key, fmt::format("is {}; a text would be right", shown(object_[key])));
    return object_[key].get<std::string>();
  }
  /// An integer, a list of them, or nothing.
  std::vector<int64_t> integers(const std::string& key, int64_t most) const {
    std::vector<int64_t> values;
    if (!has(key)) return values;
    const auto take = [&](const Json& value) {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(most))
        refuse(key, fmt::format("{} is no token; 0 to {} would be right", shown(value), most));
      values.push_back(value.get<int64_t>());
    };
    if (object_[key].is_array())
      for (const Json& value : object_[key]) take(value);
    else
      take(object_[key]);
    return values;
  }
  JsonReader part(const std::string& key) const {
    if (!object_[key].is_object())
      refuse(key, fmt::format("is {}; an object would be right", shown(object_[key])));
    return {file_, prefix_ + key + ".", object_[key]};
  }
  const Json& at(const std::string& key) const { return object_[key]; }

 private:
  static std::string shown(const Json& value) {
    if (value.is_structured()) return value.is_array() ? "a list" : "an object";  // of any depth
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() > 60 ? text.substr(0, 60) + "..." : text;
  }

  std::string file_, prefix_;
  const Json& object_;
};

Json parse(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  if (mapped.bytes().size() > most_config_bytes)
    throw ModelError(fmt::format("{}: {} bytes are no config.json; at most {} would be right", file.string(),
                                 mapped.bytes().size(), most_config_bytes));
  const auto* text = reinterpret_cast<const char*>(mapped.bytes().data());
  Json json = Json::parse(text, text + mapped.bytes().size(), nullptr, false);
  if (!json.is_object()) throw ModelError(fmt::format("{}: is no JSON object", file.string()));
  return json;
}

/// transformers wrote rope_theta and rope_scaling until version 4, rope_parameters with both since; files
/// that serve both hold both.
RopeConfig read_rope(const JsonReader& config) {
  RopeConfig rope;
  rope.theta = config.positive("rope_theta", rope.theta);
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.has(key)) return rope;
  const JsonReader scaling = config.part(key);
  rope.theta = scaling.positive("rope_theta", rope.theta);
  const std::string type = scaling.text(scaling.has("rope_type") ? "rope_type" : "type", "default");
  if (scaling.positive("partial_rotary_factor", 1.0) != 1.0)
    scaling.refuse("partial_rotary_factor", "only 1, a rotation of whole heads, is computed here");
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3")
    scaling.refuse("rope_type", fmt::format("{} is not computed here; default, linear or llama3 is", type));
  rope.factor = scaling.positive("factor");
  rope.scaling = type == "linear" ? RopeConfig::Scaling::linear : RopeConfig::Scaling::llama3;
  if (rope.scaling == RopeConfig::Scaling::linear) return rope;
  rope.low_frequency = scaling.positive("low_freq_factor");
  rope.high_frequency = scaling.positive("high_freq_factor");
  rope.original_context = scaling.positive("original_max_position_embeddings");
  if (rope.high_frequency <= rope.low_frequency)
    scaling.refuse("high_freq_factor", "must be above low_freq_factor");
  return rope;
}

/// Whether some layer attends to a sliding window only. Each family says it in its own way.
bool slides(const JsonReader& config, const std::string& family) {
  if (!config.has("sliding_window")) return false;
  if (config.has("layer_types")) {
    const Json& types = config.at("layer_types");
    return std::find(types.begin(), types.end(), "sliding_attention") != types.end();
  }
  return family == "mistral" || config.boolean("use_sliding_window", false);
}

void refuse_what_is_not_computed(const JsonReader& config) {
  if (config.has("quantization_config"))
    config.refuse("quantization_config", "quantised weights are not read; float32, float16 or bfloat16 are");
  if (const std::string act = config.text("hidden_act", "silu"); act != "silu" && act != "swish")
    config.refuse("hidden_act", fmt::format("{} is not computed here; silu is", act));
  if (config.boolean("mlp_bias", false)) config.refuse("mlp_bias", "only false is computed here");
  if (config.positive("partial_rotary_factor", 1.0) != 1.0)
    config.refuse("partial_rotary_factor", "only 1, a rotation of whole heads, is computed here");
  if (config.integer("pretraining_tp", 0, 1 << 20, 1) > 1)
    config.refuse("pretraining_tp", "only 1 is computed here");
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& file) {
  const Json json = parse(file);
  const JsonReader config(file.string(), "", json);
  ModelConfig model;
  model.family = config.text("model_type");
  if (std::find(families.begin(), families.end(), model.family) == families.end())
    config.refuse("model_type",
                  fmt::format("{} is not known; {} would be right", model.family, fmt::join(families, ", ")));
  refuse_what_is_not_computed(config);

  constexpr int64_t most = 1 << 20;
  model.n_layers = config.integer("num_hidden_layers", 1, 1 << 12);
  model.hidden = config.integer("hidden_size", 1, most);
  model.ffn = config.integer("intermediate_size", 1, most);
  model.vocabulary = config.integer("vocab_size", 1, 1 << 24);
  model.n_q_heads = config.integer("num_attention_heads", 1, 1 << 12);
  model.n_kv_heads = config.integer("num_key_value_heads", 1, 1 << 12, model.n_q_heads);
  if (model.n_q_heads % model.n_kv_heads != 0)
    config.refuse("num_attention_heads", fmt::format("{} is no multiple of num_key_value_heads = {}",
                                                     model.n_q_heads, model.n_kv_heads));
  if (!config.has("head_dim") && model.hidden % model.n_q_heads != 0)
    config.refuse("hidden_size", fmt::format("{} is no multiple of num_attention_heads = {}, and head_dim is "
                                             "missing",
                                             model.hidden, model.n_q_heads));
  model.head_dim = config.integer("head_dim", 2, 1 << 12, model.hidden / model.n_q_heads);
  if (model.head_dim % 2 != 0)
    config.refuse("head_dim",
                  fmt::format("{} is odd; halves are rotated, so even would be right", model.head_dim));
  model.context = config.integer("max_position_embeddings", 1, int64_t{1} << 30);
  if (slides(config, model.family))
    model.context = std::min(model.context, config.integer("sliding_window", 1, int64_t{1} << 30));
  model.norm_epsilon = config.positive("rms_norm_eps", 1e-6);
  model.rope = read_rope(config);

  // Qwen2 has biases on q, k and v whether its file says so or not; the others where it says so, and then on
  // the output projection, too.
  const bool bias = config.boolean("attention_bias", false);
  model.qkv_bias = model.family == "qwen2" || bias;
  model.output_bias = model.family != "qwen2" && bias;
  model.qk_norm = model.family == "qwen3";
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  const std::vector<int64_t> bos = config.integers("bos_token_id", model.vocabulary - 1);
  if (bos.size() == 1) model.bos = bos.front();
  model.eos = config.integers("eos_token_id", model.vocabulary - 1);
  return model;
}

}  // namespace hindsight
