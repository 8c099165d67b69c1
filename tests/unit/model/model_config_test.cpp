#include "model/model_config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "support/random_model.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

using Json = nlohmann::json;

ModelConfig read(const Json& json) {
  const TempDir dir;
  std::ofstream(dir / "config.json") << json.dump();
  return read_model_config(dir / "config.json");
}

Json changed(const std::string& key, const Json& value, const RandomModelShape& shape = {}) {
  Json json = RandomModel(shape).config;
  json[key] = value;
  return json;
}
Json without(const std::string& key) {
  Json json = RandomModel().config;
  json.erase(key);
  return json;
}

TEST(ModelConfig, TheReferenceModels) {
  const ModelConfig config =
      read_model_config(HINDSIGHT_SOURCE_DIR "/experiments/reference_model/model/config.json");
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.n_layers, 8);
  EXPECT_EQ(config.hidden, 256);
  EXPECT_EQ(config.ffn, 704);
  EXPECT_EQ(config.q_size(), 256);
  EXPECT_EQ(config.kv_size(), 128);
  EXPECT_EQ(config.context, 8192);
  EXPECT_EQ(config.rope.theta, 500000);
  EXPECT_EQ(config.rope.scaling, RopeConfig::Scaling::none);
  EXPECT_EQ(config.bos, 0);
  EXPECT_TRUE(config.eos.empty());
  EXPECT_FALSE(config.tied_embeddings || config.qkv_bias || config.output_bias || config.qk_norm);
}

TEST(ModelConfig, FamiliesDifferInBiasesAndNorms) {
  EXPECT_TRUE(read(changed("attention_bias", true)).output_bias);
  EXPECT_TRUE(read(changed("attention_bias", true)).qkv_bias);
  const ModelConfig qwen2 = read(RandomModel({.family = "qwen2"}).config);
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.qk_norm);
  const ModelConfig qwen3 = read(RandomModel({.family = "qwen3"}).config);
  EXPECT_TRUE(qwen3.qk_norm && !qwen3.qkv_bias);
}

TEST(ModelConfig, WhatIsMissingHasTheFamiliesDefaults) {
  EXPECT_EQ(read(without("num_key_value_heads")).n_kv_heads, 4);
  EXPECT_EQ(read(without("head_dim")).head_dim, 8);
  EXPECT_EQ(read(without("rope_theta")).rope.theta, 10000);
  EXPECT_EQ(read(without("rms_norm_eps")).norm_epsilon, 1e-6);
  EXPECT_FALSE(read(without("tie_word_embeddings")).tied_embeddings);
}

TEST(ModelConfig, RopeUnderOldAndNewNames) {
  const Json llama3{{"rope_type", "llama3"},
                    {"factor", 32.0},
                    {"low_freq_factor", 1.0},
                    {"high_freq_factor", 4.0},
                    {"original_max_position_embeddings", 8192}};
  const RopeConfig old_name = read(changed("rope_scaling", llama3)).rope;
  EXPECT_EQ(old_name.scaling, RopeConfig::Scaling::llama3);
  EXPECT_EQ(old_name.factor, 32);
  EXPECT_EQ(old_name.original_context, 8192);
  Json with_theta = llama3;
  with_theta["rope_theta"] = 12345.0;
  EXPECT_EQ(read(changed("rope_parameters", with_theta)).rope.theta, 12345);
  EXPECT_EQ(read(changed("rope_scaling", {{"type", "linear"}, {"factor", 2.0}})).rope.scaling,
            RopeConfig::Scaling::linear);
  EXPECT_EQ(read(changed("rope_scaling", nullptr)).rope.scaling, RopeConfig::Scaling::none);
}

TEST(ModelConfig, ASlidingWindowEndsTheContext) {
  EXPECT_EQ(read(changed("sliding_window", 128, {.family = "mistral"})).context, 128);
  EXPECT_EQ(read(changed("sliding_window", nullptr, {.family = "mistral"})).context, 512);
  // Qwen2 states a window that it does not use.
  EXPECT_EQ(read(changed("sliding_window", 128, {.family = "qwen2"})).context, 512);
  Json used = changed("sliding_window", 128, {.family = "qwen2"});
  used["use_sliding_window"] = true;
  EXPECT_EQ(read(used).context, 128);
  Json listed = changed("sliding_window", 128, {.family = "qwen3"});
  listed["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_EQ(read(listed).context, 128);
}

TEST(ModelConfig, EndsOfTextAreOneOrSeveral) {
  EXPECT_EQ(read(changed("eos_token_id", 2)).eos, (std::vector<int64_t>{2}));
  EXPECT_EQ(read(changed("eos_token_id", {1, 2})).eos, (std::vector<int64_t>{1, 2}));
}

struct Refused {
  std::string name, says;
  Json config;
};
void PrintTo(const Refused& refused, std::ostream* out) { *out << refused.name; }

std::vector<Refused> refused_configs() {
  Json nested = 1;
  for (int depth = 0; depth < 1000; ++depth) nested = Json::array({nested});
  return {
      {"NoFamily", "model_type: is missing", without("model_type")},
      {"AnotherFamily", "model_type: gpt2 is not known", changed("model_type", "gpt2")},
      {"FamilyIsANumber", "model_type: is 3", changed("model_type", 3)},
      {"NoLayers", "num_hidden_layers: 0 is out of range", changed("num_hidden_layers", 0)},
      {"LayersMissing", "num_hidden_layers: is missing", without("num_hidden_layers")},
      {"LayersAsText", "num_hidden_layers: is \"4\"", changed("num_hidden_layers", "4")},
      {"LayersAsReal", "num_hidden_layers: is 4.0", changed("num_hidden_layers", 4.0)},
      {"LayersAsAList", "num_hidden_layers: is a list", changed("num_hidden_layers", nested)},
      {"AbsurdHidden", "hidden_size: 18446744073709551615 is out of range",
       changed("hidden_size", std::numeric_limits<uint64_t>::max())},
      {"NegativeFfn", "intermediate_size: -1 is out of range", changed("intermediate_size", -1)},
      {"HeadsNotDivisible", "num_attention_heads: 4 is no multiple of num_key_value_heads = 3",
       changed("num_key_value_heads", 3)},
      {"OddHead", "head_dim: 7 is odd", changed("head_dim", 7)},
      {"Activation", "hidden_act: gelu is not computed", changed("hidden_act", "gelu")},
      {"MlpBias", "mlp_bias: only false", changed("mlp_bias", true)},
      {"Quantised", "quantization_config:", changed("quantization_config", {{"bits", 4}})},
      {"NormNegative", "rms_norm_eps: is -1.0", changed("rms_norm_eps", -1.0)},
      {"RopeType", "rope_scaling.rope_type: yarn is not computed",
       changed("rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}})},
      {"RopeFactorMissing", "rope_scaling.factor: is missing",
       changed("rope_scaling", {{"rope_type", "linear"}})},
      {"RopeIsText", "rope_scaling: is \"llama3\"", changed("rope_scaling", "llama3")},
      {"PartialRotation", "partial_rotary_factor: only 1", changed("partial_rotary_factor", 0.5)},
      {"EosOutOfVocabulary", "eos_token_id: 64 is no token", changed("eos_token_id", 64)},
      {"TiedAsText", "tie_word_embeddings: is \"yes\"", changed("tie_word_embeddings", "yes")},
  };
}

class RefusedConfig : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedConfig, NamesFileAndKeyInOneLine) {
  try {
    read(GetParam().config);
    FAIL() << "was accepted";
  } catch (const ModelError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("config.json: " + GetParam().says), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(error.exit_status(), ExitStatus::trace);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, RefusedConfig, ::testing::ValuesIn(refused_configs()),
                         [](const auto& refused) { return refused.param.name; });

TEST(ModelConfig, FilesThatAreNoConfigurations) {
  const TempDir dir;
  EXPECT_THROW(read_model_config(dir / "config.json"), InputError);
  for (const std::string& text : {std::string("[]"), std::string("{"), std::string(2 << 20, ' ')}) {
    std::ofstream(dir / "config.json") << text;
    EXPECT_THROW(read_model_config(dir / "config.json"), ModelError);
  }
}

}  // namespace
}  // namespace hindsight::test
