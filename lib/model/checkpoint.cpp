#include "model/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace hindsight {
namespace {

namespace fs = std::filesystem;

constexpr const char* single_file = "model.safetensors";
constexpr const char* index_file = "model.safetensors.index.json";
constexpr size_t most_index_bytes = 64 << 20, most_shards = 4096;

/// Tensors that files hold and no computation needs: frequencies that older files stored, and the output
/// matrix of a model whose embedding stands for it.
bool is_superfluous(const std::string& name, const ModelConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight");
}

/// The shards that an index names, and where it says each tensor is.
std::map<std::string, std::set<std::string>> read_index(const fs::path& file) {
  const MappedFile mapped(file);
  const auto refuse = [&](const std::string& what) {
    throw ModelError(fmt::format("{}: {}", file.string(), what));
  };
  if (mapped.bytes().size() > most_index_bytes) refuse("is too large for an index of tensors");
  const auto* text = reinterpret_cast<const char*>(mapped.bytes().data());
  const auto json = nlohmann::json::parse(text, text + mapped.bytes().size(), nullptr, false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    refuse("has no weight_map; an object of tensor names and files would be right");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    // A name, no path: an index does not lead out of its folder.
    if (name.empty() || name != fs::path(name).filename() || name == "..")
      refuse(fmt::format("weight_map: {}: the name of a file in this folder would be right", tensor));
    shards[name].insert(tensor);
  }
  if (shards.empty() || shards.size() > most_shards) refuse(fmt::format("names {} files", shards.size()));
  return shards;
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void add(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  void add(const std::string& text) { add(text.data(), text.size() + 1); }  // its end with it
  std::string hex() {
    std::array<unsigned char, 32> digest{};
    EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
    return fmt::format("{:02x}", fmt::join(digest, ""));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::vector<TensorSpec> tensors_of(const ModelConfig& config) {
  std::vector<TensorSpec> all{{"model.embed_tokens.weight", {config.vocabulary, config.hidden}},
                              {"model.norm.weight", {config.hidden}}};
  if (!config.tied_embeddings) all.push_back({"lm_head.weight", {config.vocabulary, config.hidden}});
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const auto add = [&](const char* name, std::vector<int64_t> shape) {
      all.push_back({fmt::format("model.layers.{}.{}", layer, name), std::move(shape)});
    };
    add("input_layernorm.weight", {config.hidden});
    add("post_attention_layernorm.weight", {config.hidden});
    add("self_attn.q_proj.weight", {config.q_size(), config.hidden});
    add("self_attn.k_proj.weight", {config.kv_size(), config.hidden});
    add("self_attn.v_proj.weight", {config.kv_size(), config.hidden});
    add("self_attn.o_proj.weight", {config.hidden, config.q_size()});
    add("mlp.gate_proj.weight", {config.ffn, config.hidden});
    add("mlp.up_proj.weight", {config.ffn, config.hidden});
    add("mlp.down_proj.weight", {config.hidden, config.ffn});
    if (config.qkv_bias) {
      add("self_attn.q_proj.bias", {config.q_size()});
      add("self_attn.k_proj.bias", {config.kv_size()});
      add("self_attn.v_proj.bias", {config.kv_size()});
    }
    if (config.output_bias) add("self_attn.o_proj.bias", {config.hidden});
    if (config.qk_norm) {
      add("self_attn.q_norm.weight", {config.head_dim});
      add("self_attn.k_norm.weight", {config.head_dim});
    }
  }
  return all;
}

Checkpoint::Checkpoint(const fs::path& folder)
    : folder_(folder), config_(read_model_config(folder / "config.json")) {
  open_files();
  check_against_config();
}

void Checkpoint::open_files() {
  std::error_code ignored;
  if (fs::exists(folder_ / single_file, ignored)) {
    files_.emplace_back(folder_ / single_file);
    return take_tensors(files_.back(), folder_ / single_file);
  }
  if (!fs::exists(folder_ / index_file, ignored))
    throw ModelError(fmt::format("{}: holds neither {} nor {}", folder_.string(), single_file, index_file));
  for (const auto& [shard, promised] : read_index(folder_ / index_file)) {
    files_.emplace_back(folder_ / shard);
    for (const std::string& name : promised)
      if (!files_.back().tensors().contains(name))
        throw ModelError(fmt::format("{}: tensor {}: is missing, and {} says that it is here",
                                     (folder_ / shard).string(), name, index_file));
    take_tensors(files_.back(), folder_ / shard);
  }
}

void Checkpoint::take_tensors(const SafetensorsFile& file, const fs::path& path) {
  // The maps' nodes stay where they are when the files' vector grows.
  for (const auto& [name, tensor] : file.tensors()) {
    const auto [before, is_new] = tensors_.try_emplace(name, Found{&tensor, path});
    if (!is_new)
      throw ModelError(fmt::format("{}: tensor {}: stands in {}, too", path.string(), name,
                                   before->second.file.filename().string()));
  }
}

void Checkpoint::check_against_config() {
  std::set<std::string> known;
  for (const TensorSpec& spec : tensors_of(config_)) {
    known.insert(spec.name);
    const auto found = tensors_.find(spec.name);
    if (found == tensors_.end())
      throw ModelError(fmt::format("{}: tensor {}: is missing; [{}] would be right", folder_.string(),
                                   spec.name, fmt::join(spec.shape, ", ")));
    const auto refuse = [&](const std::string& what) {
      throw ModelError(fmt::format("{}: tensor {}: {}", found->second.file.string(), spec.name, what));
    };
    const StoredTensor& tensor = *found->second.tensor;
    if (tensor.shape != spec.shape)
      refuse(fmt::format("has shape [{}]; by config.json [{}] would be right", fmt::join(tensor.shape, ", "),
                         fmt::join(spec.shape, ", ")));
    if (!tensor.dtype) refuse(fmt::format("is stored as {}; F32, F16 or BF16 would be right", tensor.type));
  }
  for (const auto& [name, found] : tensors_)
    if (!known.contains(name) && !is_superfluous(name, config_))
      throw ModelError(fmt::format("{}: tensor {}: is no part of a {} of this config.json",
                                   found.file.string(), name, config_.family));
}

std::vector<float> Checkpoint::read(const std::string& name) const {
  const Found& found = tensors_.at(name);
  std::vector<float> values(found.tensor->values.size() / static_cast<size_t>(size_of(*found.tensor->dtype)));
  to_float(*found.tensor->dtype, found.tensor->values, values);
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (bad != values.end())
    throw ModelError(fmt::format("{}: tensor {}: is NaN or infinite at element {}", found.file.string(), name,
                                 bad - values.begin()));
  return values;
}

DType Checkpoint::dtype(const std::string& name) const { return *tensors_.at(name).tensor->dtype; }

DType Checkpoint::dtype() const {
  std::map<DType, size_t> bytes;
  for (const TensorSpec& spec : tensors_of(config_)) {
    const StoredTensor& tensor = *tensors_.at(spec.name).tensor;
    bytes[*tensor.dtype] += tensor.values.size();
  }
  return std::max_element(bytes.begin(), bytes.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

std::string Checkpoint::digest() const {
  Sha256 digest;
  const MappedFile config(folder_ / "config.json");
  digest.add(config.bytes().data(), config.bytes().size());
  for (const TensorSpec& spec : tensors_of(config_)) {
    const StoredTensor& tensor = *tensors_.at(spec.name).tensor;
    digest.add(spec.name);
    digest.add(fmt::format("{} [{}]", tensor.type, fmt::join(tensor.shape, ", ")));
    digest.add(tensor.values.data(), tensor.values.size());
  }
  return digest.hex();
}

}  // namespace hindsight
