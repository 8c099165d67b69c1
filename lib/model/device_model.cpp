#include "model/device_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "model/rope.h"

namespace hindsight {
namespace {

ModelPrimitives& primitives_of(Backend& backend) {
  ModelPrimitives* primitives = backend.model_primitives();
  if (!primitives) throw std::invalid_argument("this backend leaves a model's layers to the host");
  return *primitives;
}

}  // namespace

DeviceModel::DeviceModel(const ModelConfig& config, const WeightSource& source, Backend& backend,
                         Precision precision)
    : config_(config), backend_(backend), math_(primitives_of(backend)), precision_(precision) {
  const int64_t q = config.q_size(), kv = config.kv_size();
  embedding_ = load_matrix(source, {"model.embed_tokens.weight"}, config.vocabulary, config.hidden);
  head_ = config.tied_embeddings ? embedding_
                                 : load_matrix(source, {"lm_head.weight"}, config.vocabulary, config.hidden);
  final_norm_ = load_vector(source, {"model.norm.weight"});
  const std::vector<float> angles = RotaryEmbedding(config.rope, config.head_dim).frequencies();
  const auto frequencies = backend.make_tensor<float, 1>({static_cast<int64_t>(angles.size())});
  backend.from_host(frequencies, angles);
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const auto name = [&](const char* tensor) { return fmt::format("model.layers.{}.{}", layer, tensor); };
    LayerWeights& weights = layers_.emplace_back();
    weights.attention_norm = load_vector(source, {name("input_layernorm.weight")});
    weights.ffn_norm = load_vector(source, {name("post_attention_layernorm.weight")});
    weights.heads.epsilon = config.norm_epsilon;
    weights.heads.frequencies = frequencies;
    if (config.qkv_bias)
      weights.heads.bias = load_vector(source, {name("self_attn.q_proj.bias"), name("self_attn.k_proj.bias"),
                                                name("self_attn.v_proj.bias")});
    if (config.output_bias) weights.output_bias = load_vector(source, {name("self_attn.o_proj.bias")});
    if (config.qk_norm) {
      weights.heads.q_norm = load_vector(source, {name("self_attn.q_norm.weight")});
      weights.heads.k_norm = load_vector(source, {name("self_attn.k_norm.weight")});
    }
    weights.qkv = load_matrix(
        source,
        {name("self_attn.q_proj.weight"), name("self_attn.k_proj.weight"), name("self_attn.v_proj.weight")},
        q + 2 * kv, config.hidden);
    weights.output = load_matrix(source, {name("self_attn.o_proj.weight")}, config.hidden, q);
    weights.gate_up = load_matrix(source, {name("mlp.gate_proj.weight"), name("mlp.up_proj.weight")},
                                  2 * config.ffn, config.hidden);
    weights.down = load_matrix(source, {name("mlp.down_proj.weight")}, config.hidden, config.ffn);
  }
  attention_dtype_ = precision == Precision::storage ? layers_.front().qkv.dtype : DType::float32;
}

Matrix DeviceModel::load_matrix(const WeightSource& source, const std::vector<std::string>& names,
                                int64_t outputs, int64_t inputs) const {
  Matrix matrix;
  matrix.outputs = outputs;
  matrix.inputs = inputs;
  matrix.dtype = source.dtype(names.front());
  // Parts of several types meet in the one that holds all of them.
  for (const std::string& name : names)
    if (source.dtype(name) != matrix.dtype) matrix.dtype = DType::float32;
  matrix.storage = backend_.allocate(matrix.bytes());
  const auto& part_rows = names.size() == 1 ? std::vector<int64_t>{outputs}
                          : names.size() == 2
                              ? std::vector<int64_t>{outputs / 2, outputs / 2}
                              : std::vector<int64_t>{config_.q_size(), config_.kv_size(), config_.kv_size()};
  auto* target = static_cast<std::byte*>(matrix.storage->data());
  for (size_t part = 0; part < names.size(); ++part) {
    const int64_t elements = part_rows[part] * inputs;
    source.load(backend_, names[part], matrix.dtype, elements, target);
    target += elements * size_of(matrix.dtype);
  }
  return matrix;
}

Tensor<float, 1> DeviceModel::load_vector(const WeightSource& source,
                                          const std::vector<std::string>& names) const {
  std::vector<float> values;
  for (const std::string& name : names) {
    const std::vector<float> part = source.read(name);
    values.insert(values.end(), part.begin(), part.end());
  }
  const auto vector = backend_.make_tensor<float, 1>({static_cast<int64_t>(values.size())});
  backend_.from_host(vector, values);
  return vector;
}

int64_t DeviceModel::weight_bytes() const {
  int64_t total = embedding_.bytes() + (config_.tied_embeddings ? 0 : head_.bytes());
  for (const LayerWeights& layer : layers_)
    for (const Matrix* matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
      total += matrix->bytes();
  return total;
}

std::vector<std::shared_ptr<Storage>> DeviceModel::workspace() const {
  std::vector<std::shared_ptr<Storage>> all;
  for (const Rows* kept : {&normed_, &attended_, &gated_, &qkv_, &gate_up_})
    if (kept->memory) all.push_back(kept->memory);
  return all;
}

int64_t DeviceModel::workspace_bytes() const {
  int64_t total = math_.workspace_bytes();
  for (const auto& memory : workspace()) total += memory->bytes();
  return total;
}

void* DeviceModel::at_least(Rows& kept, int64_t bytes) const {
  if (!kept.memory || kept.memory->bytes() < bytes) kept.memory = backend_.allocate(bytes);
  return kept.memory->data();
}

Tensor<float, 2> DeviceModel::rows(Rows& kept, int64_t n, int64_t width) const {
  at_least(kept, n * width * backend_.real_bytes());
  return {kept.memory, {n, width}, 0};
}

Operand DeviceModel::operand(Rows& kept, const Matrix& matrix, int64_t n) const {
  Operand operand;
  operand.dtype = matrix.dtype;
  operand.parts = precision_ == Precision::float32 && matrix.dtype != DType::float32 ? 2 : 1;
  operand.rows = n;
  operand.width = matrix.inputs;
  at_least(kept, operand.parts * n * matrix.inputs * size_of(matrix.dtype));
  operand.storage = kept.memory;
  return operand;
}

void DeviceModel::embed(Tensor<int32_t, 1> tokens, Tensor<float, 2> x) const {
  math_.embed(embedding_, tokens, x);
}

void DeviceModel::project(int64_t layer, Tensor<float, 2> x, Tensor<int32_t, 1> positions,
                          const ProjectedRows& projected) const {
  const LayerWeights& weights = layers_.at(static_cast<size_t>(layer));
  const int64_t n = x.shape[0];
  const Operand input = operand(normed_, weights.qkv, n);
  const Tensor<float, 2> qkv = rows(qkv_, n, weights.qkv.outputs);
  math_.rms_norm(x, weights.attention_norm, config_.norm_epsilon, input);
  math_.multiply(weights.qkv, input, qkv, false);
  math_.split_heads(qkv, weights.heads, positions, projected.q, projected.k, projected.v);
}

void DeviceModel::finish_layer(int64_t layer, const ChosenRows& attended, Tensor<float, 2> x) const {
  const LayerWeights& weights = layers_.at(static_cast<size_t>(layer));
  const int64_t n = x.shape[0];
  const Operand mixed = operand(attended_, weights.output, n);
  math_.to_operand(attended, mixed);
  math_.multiply(weights.output, mixed, x, true);
  if (weights.output_bias.size() > 0) math_.add_bias(x, weights.output_bias);

  const Operand input = operand(normed_, weights.gate_up, n);
  const Tensor<float, 2> gate_up = rows(gate_up_, n, weights.gate_up.outputs);
  math_.rms_norm(x, weights.ffn_norm, config_.norm_epsilon, input);
  math_.multiply(weights.gate_up, input, gate_up, false);
  const Operand gated = operand(gated_, weights.down, n);
  math_.gate(gate_up, gated);
  math_.multiply(weights.down, gated, x, true);
}

void DeviceModel::logits(Tensor<float, 2> x, Tensor<float, 2> logits) const {
  const Operand input = operand(normed_, head_, x.shape[0]);
  math_.rms_norm(x, final_norm_, config_.norm_epsilon, input);
  math_.multiply(head_, input, logits, false);
}

}  // namespace hindsight
