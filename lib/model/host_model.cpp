#include "model/host_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace hindsight {
namespace {

/// RMS norm (arXiv 1910.07467) of rows of `n` elements, in place or not.
void rms_norm(const float* x, int64_t rows, int64_t n, const std::vector<float>& weight, double epsilon,
              float* y) {
#pragma omp parallel for schedule(static) if (rows * n > 1 << 18)
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[row * n + i]) * x[row * n + i];
    const auto scale = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(n) + epsilon));
    for (int64_t i = 0; i < n; ++i) y[row * n + i] = x[row * n + i] * scale * weight[i];
  }
}

std::vector<float> normalised(std::span<const float> x, const std::vector<float>& weight, double epsilon) {
  std::vector<float> y(x.size());
  const auto n = static_cast<int64_t>(weight.size());
  rms_norm(x.data(), static_cast<int64_t>(x.size()) / n, n, weight, epsilon, y.data());
  return y;
}

std::vector<float> applied(const Linear& linear, std::span<const float> x) {
  const int64_t rows = static_cast<int64_t>(x.size()) / linear.inputs();
  std::vector<float> y(static_cast<size_t>(rows * linear.outputs()));
  linear.apply(x.data(), rows, y.data());
  return y;
}

/// gate <- silu(gate) * up.
void gate_in_place(std::vector<float>& gate, const std::vector<float>& up) {
  const auto n = static_cast<int64_t>(gate.size());
#pragma omp parallel for schedule(static) if (n > 1 << 18)
  for (int64_t i = 0; i < n; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void add(const std::vector<float>& from, float* to) {
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

template <int Rank>
std::span<const float> values_of(const Tensor<float, Rank>& rows) {
  return {rows.data(), static_cast<size_t>(rows.size())};
}

}  // namespace

HostModel::HostModel(const ModelConfig& config, const WeightSource& source)
    : config_(config), rope_(config_.rope, config_.head_dim) {
  embedding_ = source.read("model.embed_tokens.weight");
  final_norm_ = source.read("model.norm.weight");
  head_ = Linear(config_.tied_embeddings ? embedding_ : source.read("lm_head.weight"), {}, config_.vocabulary,
                 config_.hidden);
  for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const auto read = [&](const char* name) { return source.read(prefix + name); };
    const auto linear = [&](const std::string& name, int64_t outputs, int64_t inputs, bool has_bias) {
      const std::vector<float> weights = source.read(prefix + name + ".weight");
      const std::vector<float> bias = has_bias ? source.read(prefix + name + ".bias") : std::vector<float>{};
      return Linear(weights, bias, outputs, inputs);
    };
    LayerWeights& weights = layers_.emplace_back();
    weights.attention_norm = read("input_layernorm.weight");
    weights.ffn_norm = read("post_attention_layernorm.weight");
    if (config_.qk_norm) {
      weights.q_norm = read("self_attn.q_norm.weight");
      weights.k_norm = read("self_attn.k_norm.weight");
    }
    weights.q = linear("self_attn.q_proj", config_.q_size(), config_.hidden, config_.qkv_bias);
    weights.k = linear("self_attn.k_proj", config_.kv_size(), config_.hidden, config_.qkv_bias);
    weights.v = linear("self_attn.v_proj", config_.kv_size(), config_.hidden, config_.qkv_bias);
    weights.output = linear("self_attn.o_proj", config_.hidden, config_.q_size(), config_.output_bias);
    weights.gate = linear("mlp.gate_proj", config_.ffn, config_.hidden, false);
    weights.up = linear("mlp.up_proj", config_.ffn, config_.hidden, false);
    weights.down = linear("mlp.down_proj", config_.hidden, config_.ffn, false);
  }
}

int64_t HostModel::weight_bytes() const {
  int64_t total = head_.bytes() + static_cast<int64_t>(embedding_.size() * sizeof(float));
  for (const LayerWeights& layer : layers_)
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down})
      total += linear->bytes();
  return total;
}

void HostModel::embed(Tensor<int32_t, 1> tokens, Tensor<float, 2> x) const {
  for (int64_t i = 0; i < tokens.size(); ++i)
    std::copy_n(embedding_.begin() + tokens.data()[i] * config_.hidden, config_.hidden,
                x.data() + i * config_.hidden);
}

void HostModel::project(int64_t layer, Tensor<float, 2> x, Tensor<int32_t, 1> positions,
                        const ProjectedRows& rows) const {
  const LayerWeights& weights = layers_.at(static_cast<size_t>(layer));
  const int64_t n = x.shape[0];
  const std::vector<float> input = normalised(values_of(x), weights.attention_norm, config_.norm_epsilon);
  weights.q.apply(input.data(), n, rows.q.data());
  weights.k.apply(input.data(), n, rows.k.data());
  weights.v.apply(input.data(), n, rows.v.data());
  if (config_.qk_norm) {
    rms_norm(rows.q.data(), n * config_.n_q_heads, config_.head_dim, weights.q_norm, config_.norm_epsilon,
             rows.q.data());
    rms_norm(rows.k.data(), n * config_.n_kv_heads, config_.head_dim, weights.k_norm, config_.norm_epsilon,
             rows.k.data());
  }
  const std::span<const int32_t> at{positions.data(), static_cast<size_t>(n)};
  rope_.rotate(rows.q.data(), at, config_.n_q_heads);
  rope_.rotate(rows.k.data(), at, config_.n_kv_heads);
}

void HostModel::finish_layer(int64_t layer, const ChosenRows& attended, Tensor<float, 2> x) const {
  const LayerWeights& weights = layers_.at(static_cast<size_t>(layer));
  const int64_t width = attended.values.shape[1];
  std::vector<float> chosen;
  if (attended.index.data())
    for (int64_t i = 0; i < attended.size(); ++i) {
      const float* row = attended.values.data() + attended.index.data()[i] * width;
      chosen.insert(chosen.end(), row, row + width);
    }
  add(applied(weights.output, attended.index.data() ? chosen : values_of(attended.values)), x.data());
  const std::vector<float> input = normalised(values_of(x), weights.ffn_norm, config_.norm_epsilon);
  std::vector<float> gate = applied(weights.gate, input);
  gate_in_place(gate, applied(weights.up, input));
  add(applied(weights.down, gate), x.data());
}

void HostModel::logits(Tensor<float, 2> x, Tensor<float, 2> logits) const {
  const std::vector<float> input = normalised(values_of(x), final_norm_, config_.norm_epsilon);
  head_.apply(input.data(), x.shape[0], logits.data());
}

}  // namespace hindsight
