#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "support/random_model.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The tensors in two shards, every other one in each, and their index.
void write_sharded(const RandomModel& model, const fs::path& folder) {
  model.write_config(folder);
  std::map<std::string, TensorToWrite> shards[2];
  Json index;
  size_t i = 0;
  for (const auto& [name, tensor] : model.tensors) {
    const size_t shard = i++ % 2;
    shards[shard][name] = tensor;
    index["weight_map"][name] = "part-" + std::to_string(shard) + ".safetensors";
  }
  write_safetensors(folder / "part-0.safetensors", shards[0]);
  write_safetensors(folder / "part-1.safetensors", shards[1]);
  std::ofstream(folder / "model.safetensors.index.json") << index.dump();
}

class CheckpointOfFamily : public ::testing::TestWithParam<RandomModelShape> {};

TEST_P(CheckpointOfFamily, IsReadBackValueForValue) {
  const TempDir dir;
  const RandomModel model(GetParam());
  model.write(dir.path());
  const Checkpoint checkpoint(dir.path());
  EXPECT_EQ(tensors_of(checkpoint.config()).size(), model.tensors.size());
  EXPECT_EQ(checkpoint.dtype(), GetParam().dtype);
  for (const auto& [name, tensor] : model.tensors) EXPECT_EQ(checkpoint.read(name), tensor.values) << name;
}

INSTANTIATE_TEST_SUITE_P(Table, CheckpointOfFamily,
                         ::testing::Values(RandomModelShape{}, RandomModelShape{.attention_bias = true},
                                           RandomModelShape{.tied = true, .dtype = DType::bfloat16},
                                           RandomModelShape{.family = "mistral", .dtype = DType::float16},
                                           RandomModelShape{.family = "qwen2"},
                                           RandomModelShape{.family = "qwen3", .tied = true}));

TEST(Checkpoint, ShardsAreTheSameModel) {
  const TempDir whole, sharded;
  const RandomModel model;
  model.write(whole.path());
  write_sharded(model, sharded.path());
  const Checkpoint checkpoint(sharded.path());
  for (const auto& [name, tensor] : model.tensors) EXPECT_EQ(checkpoint.read(name), tensor.values) << name;
  EXPECT_EQ(checkpoint.digest(), Checkpoint(whole.path()).digest());
}

TEST(Checkpoint, DigestTellsModelsApart) {
  const TempDir dir;
  RandomModel model;
  model.write(dir.path());
  const std::string before = Checkpoint(dir.path()).digest();
  EXPECT_EQ(before.size(), 64u);
  model.tensors["model.layers.1.mlp.up_proj.weight"].values[5] += 1;
  model.write(dir.path());
  EXPECT_NE(Checkpoint(dir.path()).digest(), before);
}

TEST(Checkpoint, TheReferenceModel) {
  const Checkpoint checkpoint(HINDSIGHT_SOURCE_DIR "/experiments/reference_model/model");
  EXPECT_EQ(checkpoint.dtype(), DType::bfloat16);
  int64_t parameters = 0;
  for (const TensorSpec& spec : tensors_of(checkpoint.config()))
    parameters += static_cast<int64_t>(checkpoint.read(spec.name).size());
  EXPECT_EQ(parameters, 6033664);  // as its card says
}

TEST(Checkpoint, WhatNoComputationNeedsMayStandThere) {
  const TempDir dir;
  RandomModel model({.tied = true});
  model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"];
  model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{4}, {1, 1, 1, 1}};
  model.write(dir.path());
  EXPECT_NO_THROW(Checkpoint(dir.path()));
}

/// One way to break a good model folder, and what the refusal must say.
struct Broken {
  std::string name, says;
  std::function<void(RandomModel&)> change;
  std::function<void(const fs::path&)> change_files = [](const fs::path&) {};
};
void PrintTo(const Broken& broken, std::ostream* out) { *out << broken.name; }

const std::string up = "model.layers.1.mlp.up_proj.weight";

std::vector<Broken> broken_models() {
  const auto nothing = [](RandomModel&) {};
  return {
      {"NoConfig", "config.json: no such file", nothing,
       [](const fs::path& dir) { fs::remove(dir / "config.json"); }},
      {"NoWeights", "holds neither model.safetensors nor", nothing,
       [](const fs::path& dir) { fs::remove(dir / "model.safetensors"); }},
      {"Truncated", "data_offsets leave the file", nothing,
       [](const fs::path& dir) {
         fs::resize_file(dir / "model.safetensors", fs::file_size(dir / "model.safetensors") - 1);
       }},
      {"MissingTensor", "tensor " + up + ": is missing; [48, 32] would be right",
       [](RandomModel& model) { model.tensors.erase(up); }},
      {"UnknownTensor", "tensor model.layers.1.mlp.extra.weight: is no part of a llama",
       [](RandomModel& model) { model.tensors["model.layers.1.mlp.extra.weight"] = model.tensors[up]; }},
      {"BiasThatTheConfigurationLacks", "tensor model.layers.0.self_attn.q_proj.bias: is no part",
       [](RandomModel& model) {
         model.tensors["model.layers.0.self_attn.q_proj.bias"] = {{32}, std::vector<float>(32)};
       }},
      {"LayerTooMany", "tensor model.layers.3.",
       [](RandomModel& model) { model.config["num_hidden_layers"] = 3; }},
      {"LayerTooFew", "tensor model.layers.4.input_layernorm.weight: is missing",
       [](RandomModel& model) { model.config["num_hidden_layers"] = 5; }},
      {"Transposed", "tensor " + up + ": has shape [32, 48]; by config.json [48, 32] would be right",
       [](RandomModel& model) {
         model.tensors[up].shape = {32, 48};
       }},
      {"Flat", "tensor " + up + ": has shape [1536]",
       [](RandomModel& model) { model.tensors[up].shape = {1536}; }},
      {"AnotherVocabulary", "tensor model.embed_tokens.weight: has shape [64, 32]",
       [](RandomModel& model) { model.config["vocab_size"] = 65; }},
      {"NoOutputMatrix", "tensor lm_head.weight: is missing",
       [](RandomModel& model) { model.tensors.erase("lm_head.weight"); }},
  };
}

class BrokenModel : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenModel, IsRefusedInOneLineThatNamesThePlace) {
  const TempDir dir;
  RandomModel model;
  GetParam().change(model);
  model.write(dir.path());
  GetParam().change_files(dir.path());
  try {
    const Checkpoint checkpoint(dir.path());
    FAIL() << "was accepted";
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind(dir.path().string(), 0), 0u) << message;
    EXPECT_NE(message.find(GetParam().says), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, BrokenModel, ::testing::ValuesIn(broken_models()),
                         [](const auto& broken) { return broken.param.name; });

TEST(Checkpoint, ValuesThatAreNotFiniteAreRefusedWhenTheyAreRead) {
  const TempDir dir;
  RandomModel model;
  model.tensors[up].values[7] = std::numeric_limits<float>::quiet_NaN();
  model.write(dir.path());
  const Checkpoint checkpoint(dir.path());
  EXPECT_NO_THROW(checkpoint.read("model.norm.weight"));
  EXPECT_THROW(checkpoint.read(up), ModelError);
}

TEST(Checkpoint, TypesThatAreNotComputedWith) {
  const TempDir dir;
  RandomModel model;
  model.write(dir.path());
  // The type's name in the header: the same size, so all else stays right.
  std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  std::string text(4096, ' ');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  const size_t at = text.find("\"F32\"");
  ASSERT_NE(at, std::string::npos);
  file.seekp(static_cast<std::streamoff>(at)).write("\"I32\"", 5);
  file.close();
  EXPECT_THROW(Checkpoint(dir.path()), ModelError);
}

/// An index that must be refused.
struct BadIndex {
  std::string name, says;
  std::function<void(Json&)> change;
};
void PrintTo(const BadIndex& bad, std::ostream* out) { *out << bad.name; }

class BadIndexes : public ::testing::TestWithParam<BadIndex> {};

TEST_P(BadIndexes, AreRefused) {
  const TempDir dir;
  write_sharded(RandomModel(), dir.path());
  const fs::path file = dir / "model.safetensors.index.json";
  Json index = Json::parse(std::ifstream(file));
  GetParam().change(index);
  std::ofstream(file) << index.dump();
  try {
    const Checkpoint checkpoint(dir.path());
    FAIL() << "was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find(GetParam().says), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadIndexes,
    ::testing::Values(
        BadIndex{"IsAList", "has no weight_map", [](Json& index) { index = Json::array(); }},
        BadIndex{"NoMap", "has no weight_map", [](Json& index) { index.erase("weight_map"); }},
        BadIndex{"EmptyMap", "names 0 files", [](Json& index) { index["weight_map"] = Json::object(); }},
        BadIndex{"FileIsANumber", "the name of a file", [](Json& index) { index["weight_map"][up] = 3; }},
        BadIndex{"FileElsewhere", "the name of a file",
                 [](Json& index) { index["weight_map"][up] = "../part-0.safetensors"; }},
        BadIndex{"AbsoluteFile", "the name of a file",
                 [](Json& index) { index["weight_map"][up] = "/etc/passwd"; }},
        BadIndex{"ParentFolder", "the name of a file", [](Json& index) { index["weight_map"][up] = ".."; }},
        BadIndex{"MissingShard", "part-7.safetensors: no such file",
                 [](Json& index) { index["weight_map"][up] = "part-7.safetensors"; }},
        BadIndex{"OtherShard", "says that it is here",
                 [](Json& index) {
                   const std::string file = index["weight_map"][up];
                   index["weight_map"][up] =
                       file == "part-0.safetensors" ? "part-1.safetensors" : "part-0.safetensors";
                 }},
        BadIndex{"TensorThatNoShardHas", "says that it is here",
                 [](Json& index) { index["weight_map"]["more"] = "part-0.safetensors"; }}),
    [](const auto& bad) { return bad.param.name; });

TEST(Checkpoint, ATensorInTwoShardsIsRefused) {
  const TempDir dir;
  const RandomModel model;
  write_sharded(model, dir.path());
  write_safetensors(dir / "part-2.safetensors", {{up, model.tensors.at(up)}, {"more", {{1}, {1}}}});
  const fs::path file = dir / "model.safetensors.index.json";
  Json index = Json::parse(std::ifstream(file));
  index["weight_map"]["more"] = "part-2.safetensors";
  std::ofstream(file) << index.dump();
  try {
    const Checkpoint checkpoint(dir.path());
    FAIL() << "was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("tensor " + up + ": stands in"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace hindsight::test
