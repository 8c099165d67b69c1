#include "model/prompt.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <stdexcept>

namespace hindsight {
namespace {

/// Rows that go through the model at once: enough that weights are used often, few enough to stay small.
constexpr int64_t chunk_tokens = 256;
constexpr int64_t page_size = 16;  // of no consequence to dense attention

/// Dense attention of one layer while its sequence grows.
class PrefillLayer {
 public:
  PrefillLayer(Backend& backend, const LayerShape& shape, int64_t n_tokens)
      : backend_(backend),
        layer_(backend.make_growing_layer(shape, {&n_tokens, 1})),
        cache_(backend.make_cache(*layer_, page_size)) {}

  std::vector<float> attend(int64_t first_position, const Projected& rows) {
    const int64_t heads = layer_->n_q_heads, kv_heads = layer_->n_kv_heads, d = layer_->head_dim;
    const int64_t n = static_cast<int64_t>(rows.q.size()) / (heads * d);
    const RowRange range{0, first_position, n, 0};
    backend_.set_queries(*layer_, {&range, 1}, on_backend(backend_, rows.q, heads, d));
    backend_.write(*cache_, *layer_, {&range, 1}, on_backend(backend_, rows.k, kv_heads, d),
                   on_backend(backend_, rows.v, kv_heads, d), Summaries::recompute);
    std::vector<BlockStep> steps;
    for (int64_t i = 0; i < n; ++i)
      steps.push_back({0, static_cast<int32_t>(first_position + i), static_cast<int32_t>(i), 1});
    const auto out = backend_.make_tensor<float, 3>({n, heads, d});
    const auto lse = backend_.make_tensor<float, 2>({n, heads});
    backend_.dense(*layer_, *cache_, backend_.make_block(std::move(steps)), out, lse);
    return backend_.to_host(out);
  }

 private:
  Backend& backend_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
};

}  // namespace

int64_t Prompt::bytes() const {
  size_t elements = logits.size();
  for (const auto& layer : k) elements += 2 * layer.size();
  return static_cast<int64_t>(elements * sizeof(float));
}

LayerShape layer_shape(const ModelConfig& config, int64_t layer) {
  return {layer, config.n_q_heads, config.n_kv_heads, config.head_dim,
          1 / std::sqrt(static_cast<double>(config.head_dim))};
}

Tensor<float, 3> on_backend(Backend& backend, std::span<const float> rows, int64_t heads, int64_t head_dim) {
  const auto tensor = backend.make_tensor<float, 3>(
      {static_cast<int64_t>(rows.size()) / (heads * head_dim), heads, head_dim});
  backend.from_host(tensor, rows);
  return tensor;
}

Prompt prefill(const Model& model, Backend& backend, std::span<const int32_t> tokens,
               PrefillObserver* observer) {
  if (tokens.empty()) throw std::invalid_argument("a prompt has at least one token");
  const ModelConfig& config = model.config();
  Prompt prompt;
  prompt.n_tokens = static_cast<int64_t>(tokens.size());
  prompt.k.resize(static_cast<size_t>(config.n_layers));
  prompt.v.resize(static_cast<size_t>(config.n_layers));
  std::vector<PrefillLayer> layers;
  for (int64_t layer = 0; layer < config.n_layers; ++layer)
    layers.emplace_back(backend, layer_shape(config, layer), prompt.n_tokens);

  for (int64_t first = 0; first < prompt.n_tokens; first += chunk_tokens) {
    if (observer) observer->on_chunk(first);
    const int64_t n = std::min(chunk_tokens, prompt.n_tokens - first);
    std::vector<int32_t> positions(static_cast<size_t>(n));
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
    std::vector<float> x = model.embed(tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(n)));
    for (int64_t layer = 0; layer < config.n_layers; ++layer) {
      const Projected rows = model.project(layer, x, positions);
      if (observer) observer->on_projected(layer, first, rows);
      prompt.k[layer].insert(prompt.k[layer].end(), rows.k.begin(), rows.k.end());
      prompt.v[layer].insert(prompt.v[layer].end(), rows.v.begin(), rows.v.end());
      model.finish_layer(layer, layers[layer].attend(first, rows), x);
      if (observer) observer->on_layer(layer, first, x);
    }
    if (first + n == prompt.n_tokens)
      prompt.logits = model.logits(std::span(x).last(static_cast<size_t>(config.hidden)));
  }
  return prompt;
}

}  // namespace hindsight
