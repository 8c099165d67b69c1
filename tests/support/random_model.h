#pragma once
// Small random models of every family, as folders and as arrays.

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/safetensors_case.h"

namespace hindsight::test {

struct RandomModelShape {
  std::string family = "llama";
  int64_t n_layers = 4, hidden = 32, ffn = 48, vocabulary = 64;
  int64_t n_q_heads = 4, n_kv_heads = 2, head_dim = 8;
  bool tied = false;
  bool llama3_rope = false;
  bool attention_bias = false;
  DType dtype = DType::float32;
  uint64_t seed = 1;
};

struct RandomModel {
  nlohmann::json config;
  std::map<std::string, TensorToWrite> tensors;

  explicit RandomModel(const RandomModelShape& shape = {}) {
    config = {{"model_type", shape.family},
              {"num_hidden_layers", shape.n_layers},
              {"hidden_size", shape.hidden},
              {"intermediate_size", shape.ffn},
              {"vocab_size", shape.vocabulary},
              {"num_attention_heads", shape.n_q_heads},
              {"num_key_value_heads", shape.n_kv_heads},
              {"head_dim", shape.head_dim},
              {"max_position_embeddings", 512},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", 10000.0},
              {"hidden_act", "silu"},
              {"tie_word_embeddings", shape.tied}};
    if (shape.attention_bias) config["attention_bias"] = true;
    if (shape.llama3_rope)
      config["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", 8.0},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 64}};
    generator_.seed(shape.seed);
    const int64_t q = shape.n_q_heads * shape.head_dim, kv = shape.n_kv_heads * shape.head_dim;
    draw("model.embed_tokens.weight", {shape.vocabulary, shape.hidden}, 0, 1);
    draw("model.norm.weight", {shape.hidden}, 1, 0.1f);
    if (!shape.tied) draw("lm_head.weight", {shape.vocabulary, shape.hidden}, 0, 0.5f);
    for (int64_t layer = 0; layer < shape.n_layers; ++layer) {
      const std::string name = "model.layers." + std::to_string(layer) + ".";
      const auto matrix = [&](const std::string& tensor, int64_t rows, int64_t columns, float gain) {
        draw(name + tensor, {rows, columns}, 0, gain / std::sqrt(static_cast<float>(columns)));
      };
      draw(name + "input_layernorm.weight", {shape.hidden}, 1, 0.1f);
      draw(name + "post_attention_layernorm.weight", {shape.hidden}, 1, 0.1f);
      // Queries and keys are large enough that attention is no plain mean.
      matrix("self_attn.q_proj.weight", q, shape.hidden, 2);
      matrix("self_attn.k_proj.weight", kv, shape.hidden, 2);
      matrix("self_attn.v_proj.weight", kv, shape.hidden, 1);
      matrix("self_attn.o_proj.weight", shape.hidden, q, 1);
      matrix("mlp.gate_proj.weight", shape.ffn, shape.hidden, 1);
      matrix("mlp.up_proj.weight", shape.ffn, shape.hidden, 1);
      matrix("mlp.down_proj.weight", shape.hidden, shape.ffn, 1);
      if (shape.family == "qwen2" || shape.attention_bias) {
        draw(name + "self_attn.q_proj.bias", {q}, 0, 0.5f);
        draw(name + "self_attn.k_proj.bias", {kv}, 0, 0.5f);
        draw(name + "self_attn.v_proj.bias", {kv}, 0, 0.5f);
      }
      if (shape.attention_bias && shape.family != "qwen2")
        draw(name + "self_attn.o_proj.bias", {shape.hidden}, 0, 0.5f);
      if (shape.family == "qwen3") {
        draw(name + "self_attn.q_norm.weight", {shape.head_dim}, 1, 0.1f);
        draw(name + "self_attn.k_norm.weight", {shape.head_dim}, 1, 0.1f);
      }
    }
    for (auto& [name, tensor] : tensors) {
      tensor.dtype = shape.dtype;
      for (float& value : tensor.values) value = round_to(shape.dtype, value);
    }
  }

  void write_config(const std::filesystem::path& folder) const {
    std::ofstream(folder / "config.json") << config.dump(1);
  }
  /// config.json and model.safetensors.
  void write(const std::filesystem::path& folder) const {
    write_config(folder);
    write_safetensors(folder / "model.safetensors", tensors);
  }

 private:
  void draw(const std::string& name, std::vector<int64_t> shape, float mean, float deviation) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    std::normal_distribution<float> normal(mean, deviation);
    TensorToWrite tensor;
    tensor.shape = std::move(shape);
    tensor.values.resize(static_cast<size_t>(n));
    for (float& value : tensor.values) value = normal(generator_);
    tensors[name] = std::move(tensor);
  }

  std::mt19937_64 generator_;
};

}  // namespace hindsight::test
