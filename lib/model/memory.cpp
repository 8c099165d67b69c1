#include "model/memory.h"

#include <algorithm>

#include "methods/catalog.h"
#include "methods/retro.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/prompt.h"

namespace hindsight {
namespace {

constexpr int64_t real = sizeof(float), number = sizeof(int32_t);

int64_t elements_of(const TensorSpec& tensor) {
  int64_t n = 1;
  for (const int64_t extent : tensor.shape) n *= extent;
  return n;
}

/// Keys, values and page summaries of a layer.
int64_t cache_bytes(const ModelConfig& config, std::span<const int64_t> capacities, int64_t page_size,
                    int64_t element) {
  int64_t rows = 0;
  for (const int64_t tokens : capacities) rows += 2 * tokens + 2 * ((tokens + page_size - 1) / page_size);
  return rows * config.kv_size() * element;
}

/// Numbers of a layer's tensors by page of every sequence and unit.
struct PageTensors {
  int64_t units, pages, lists;  ///< [batch, U], [batch, U, J], [batch, U, capacity]
};
PageTensors page_tensors(const ModelConfig& config, const Selector& selector,
                         std::span<const int64_t> capacities) {
  const int64_t longest = *std::max_element(capacities.begin(), capacities.end());
  const int64_t units =
      static_cast<int64_t>(capacities.size()) *
      (selector.unit_policy().unit == Unit::per_kv_head ? config.n_kv_heads : config.n_q_heads);
  return {units, units * ((longest + selector.page_size() - 1) / selector.page_size()),
          units * selector.list_capacity(0, longest - 1)};
}

/// What sparse attention of a layer holds beside its cache.
int64_t sparse_bytes(const ModelConfig& config, const DecodingMethod& method,
                     std::span<const int64_t> capacities, int64_t kept_rows) {
  const auto selector = make_selector(method.selector, method.parameters);
  const RetroOptions retro = retro_options(method.parameters);
  const auto batch = static_cast<int64_t>(capacities.size());
  const auto [units, pages, lists] = page_tensors(config, *selector, capacities);
  const int64_t row = config.n_q_heads * (config.head_dim + 1);
  int64_t bytes = (pages + kept_rows * row) * real + (lists + units) * number;
  if (retro.original_query) bytes += kept_rows * config.q_size() * real;
  if (!retro.attend_again) bytes += (lists + pages) * number + batch * retro.window * row * real;
  if (selector->needs_page_mass()) bytes += (batch * row + pages) * real;
  return bytes;
}

}  // namespace

int64_t weight_bytes(const ModelConfig& config, const WeightSource& source, bool on_device) {
  int64_t bytes = 0;
  for (const TensorSpec& tensor : tensors_of(config))
    bytes += elements_of(tensor) * (on_device ? size_of(source.dtype(tensor.name)) : real);
  // The host packs the output matrix otherwise than the embedding.
  return bytes + (config.tied_embeddings && !on_device ? config.vocabulary * config.hidden * real : 0);
}

int64_t largest_weight_bytes(const ModelConfig& config) {
  int64_t most = 0;
  for (const TensorSpec& tensor : tensors_of(config)) most = std::max(most, elements_of(tensor) * real);
  return most;
}

int64_t decoder_bytes(const ModelConfig& config, const DecodingMethod& method,
                      std::span<const int64_t> capacities, int64_t element) {
  const auto batch = static_cast<int64_t>(capacities.size());
  const int64_t first_sparse = first_sparse_layer_of(config, method);
  const bool is_sparse = first_sparse < config.n_layers;
  const int64_t window = is_sparse ? retro_options(method.parameters).window : 1;
  const int64_t kept_rows = WindowRows(batch, window).total_rows();
  const int64_t heads = config.n_q_heads * (config.head_dim + 1);
  int64_t bytes =
      first_sparse * (cache_bytes(config, capacities, dense_page_size, element) + batch * heads * real);
  if (is_sparse)
    bytes += (config.n_layers - first_sparse) *
             (cache_bytes(config, capacities, method.parameters.integer("page_size"), element) +
              sparse_bytes(config, method, capacities, kept_rows));
  const int64_t row = config.hidden + config.q_size() + 2 * config.kv_size();
  return bytes +
         (kept_rows * config.hidden + batch * (window * row + config.hidden + config.vocabulary)) * real;
}

int64_t selection_bytes(const ModelConfig& config, const DecodingMethod& method,
                        std::span<const int64_t> capacities, bool with_true_mass) {
  const int64_t layers = config.n_layers - first_sparse_layer_of(config, method);
  if (layers == 0) return 0;
  const auto [units, pages, lists] =
      page_tensors(config, *make_selector(method.selector, method.parameters), capacities);
  return layers * ((lists + units) * number * (with_true_mass ? 2 : 1) + (with_true_mass ? pages * real : 0));
}

int64_t start_bytes(const ModelConfig& config, int64_t n_tokens) {
  return 2 * n_tokens * config.kv_size() * real;
}

int64_t prefill_bytes(const ModelConfig& config, int64_t n_tokens, int64_t element) {
  // Through a layer: residual stream, its norm, heads and their results, the two halves of the feed-forward
  // network; and the queries that a layer keeps.
  const int64_t row = 2 * config.hidden + 3 * config.q_size() + 4 * config.kv_size() + 3 * config.ffn;
  const int64_t n = std::min(n_tokens, prefill_chunk_tokens);
  return config.n_layers *
             (cache_bytes(config, {&n_tokens, 1}, dense_page_size, element) + n * config.q_size() * element) +
         n * row * real;
}

int64_t prompt_bytes(const ModelConfig& config, int64_t n_tokens) {
  return (config.n_layers * 2 * n_tokens * config.kv_size() + config.vocabulary) * real;
}

}  // namespace hindsight
