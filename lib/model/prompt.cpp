#include "model/prompt.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "model/layer_attention.h"
#include "model/layer_rows.h"

namespace hindsight {
namespace {

/// Dense attention of one layer while its sequence grows.
class PrefillLayer {
 public:
  PrefillLayer(Backend& backend, const LayerShape& shape, int64_t n_tokens)
      : backend_(backend),
        layer_(backend.make_growing_layer(shape, {&n_tokens, 1})),
        cache_(backend.make_cache(*layer_, dense_page_size)) {}

  Tensor<float, 3> attend(int64_t first_position, const ProjectedRows& rows) {
    const int64_t heads = layer_->n_q_heads, n = rows.q.shape[0];
    const RowRange range{0, first_position, n, 0};
    backend_.set_queries(*layer_, {&range, 1}, rows.q);
    backend_.write(*cache_, *layer_, {&range, 1}, rows.k, rows.v, Summaries::recompute);
    std::vector<BlockStep> steps;
    for (int64_t i = 0; i < n; ++i)
      steps.push_back({0, static_cast<int32_t>(first_position + i), static_cast<int32_t>(i), 1});
    const auto out = backend_.make_tensor<float, 3>({n, heads, layer_->head_dim});
    const auto lse = backend_.make_tensor<float, 2>({n, heads});
    backend_.dense(*layer_, *cache_, backend_.make_block(std::move(steps)), out, lse);
    return out;
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

Prompt prefill(const Model& model, Backend& backend, std::span<const int32_t> tokens,
               PrefillObserver* observer) {
  if (tokens.empty()) throw std::invalid_argument("a prompt has at least one token");
  model.require_tokens(tokens);
  const ModelConfig& config = model.config();
  const ModelCompute& compute = model.compute();
  Prompt prompt;
  prompt.n_tokens = static_cast<int64_t>(tokens.size());
  prompt.k.resize(static_cast<size_t>(config.n_layers));
  prompt.v.resize(static_cast<size_t>(config.n_layers));
  for (auto* rows_of_layers : {&prompt.k, &prompt.v})
    for (auto& rows : *rows_of_layers) rows.reserve(static_cast<size_t>(prompt.n_tokens * config.kv_size()));
  std::vector<PrefillLayer> layers;
  for (int64_t layer = 0; layer < config.n_layers; ++layer)
    layers.emplace_back(backend, model.layer_shape(layer), prompt.n_tokens);

  for (int64_t first = 0; first < prompt.n_tokens; first += prefill_chunk_tokens) {
    if (observer) observer->on_chunk(first);
    const int64_t n = std::min(prefill_chunk_tokens, prompt.n_tokens - first), d = config.head_dim;
    std::vector<int32_t> positions(static_cast<size_t>(n));
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
    const Tensor<int32_t, 1> at = backend.make_numbers(positions);
    const auto x = backend.make_tensor<float, 2>({n, config.hidden});
    const ProjectedRows rows{backend.make_tensor<float, 3>({n, config.n_q_heads, d}),
                             backend.make_tensor<float, 3>({n, config.n_kv_heads, d}),
                             backend.make_tensor<float, 3>({n, config.n_kv_heads, d})};
    compute.embed(backend.make_numbers(tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(n))),
                  x);
    for (int64_t layer = 0; layer < config.n_layers; ++layer) {
      compute.project(layer, x, at, rows);
      const std::vector<float> k = backend.to_host(rows.k), v = backend.to_host(rows.v);
      if (observer) observer->on_projected(layer, first, {backend.to_host(rows.q), k, v});
      prompt.k[layer].insert(prompt.k[layer].end(), k.begin(), k.end());
      prompt.v[layer].insert(prompt.v[layer].end(), v.begin(), v.end());
      compute.finish_layer(layer, {flat_rows(layers[layer].attend(first, rows)), {}}, x);
      if (observer) observer->on_layer(layer, first, x);
    }
    if (first + n == prompt.n_tokens) {
      const auto logits = backend.make_tensor<float, 2>({1, config.vocabulary});
      compute.logits(backend.rows_of(x, n - 1, 1), logits);
      prompt.logits = backend.to_host(logits);
    }
  }
  return prompt;
}

}  // namespace hindsight
