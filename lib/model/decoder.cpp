#include "model/decoder.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <stdexcept>

#include "methods/catalog.h"
#include "methods/retro.h"

namespace hindsight {

int64_t first_sparse_layer_of(const ModelConfig& config, const DecodingMethod& method) {
  if (make_selector(method.selector, method.parameters)->is_dense()) return config.n_layers;
  return std::min(config.n_layers, method.parameters.integer("dense_layers"));
}

Decoder::Decoder(const Model& model, Backend& backend, const DecodingMethod& method,
                 std::span<const int64_t> capacities)
    : model_(model),
      backend_(backend),
      first_sparse_(first_sparse_layer_of(model.config(), method)),
      window_(static_cast<int64_t>(capacities.size()),
              first_sparse_ < model.config().n_layers ? retro_options(method.parameters).window : 1),
      windows_(backend, static_cast<int64_t>(capacities.size()), window_.window()),
      newest_(backend, static_cast<int64_t>(capacities.size()), 1),
      n_tokens_(capacities.size(), 0) {
  const ModelConfig& config = model.config();
  const auto batch = static_cast<int64_t>(capacities.size());
  const int64_t rows = batch * window_.window(), d = config.head_dim;
  entry_ = backend.make_tensor<float, 2>({window_.total_rows(), config.hidden});
  newest_x_ = backend.make_tensor<float, 2>({batch, config.hidden});
  x_ = backend.make_tensor<float, 2>({rows, config.hidden});
  projected_ = {backend.make_tensor<float, 3>({rows, config.n_q_heads, d}),
                backend.make_tensor<float, 3>({rows, config.n_kv_heads, d}),
                backend.make_tensor<float, 3>({rows, config.n_kv_heads, d})};
  tokens_ = backend.make_tensor<int32_t, 1>({batch});
  logits_ = backend.make_tensor<float, 2>({batch, config.vocabulary});
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const LayerShape shape = model.layer_shape(layer);
    layers_.push_back(layer < first_sparse_
                          ? make_dense_attention(backend, shape, capacities)
                          : make_sparse_attention(backend, shape, method, capacities, window_.total_rows()));
    can_be_recorded_ = can_be_recorded_ && layers_.back()->can_be_recorded();
  }
}

void Decoder::start(int64_t sequence, const Prompt& prompt) {
  const int64_t heads = model_.config().n_kv_heads, d = model_.config().head_dim;
  const auto uploaded = [&](const std::vector<float>& rows) {
    const auto tensor = backend_.make_tensor<float, 3>({prompt.n_tokens, heads, d});
    backend_.from_host(tensor, rows);
    return tensor;
  };
  start(sequence, prompt.n_tokens, [&](int64_t layer, int64_t) {
    return KeysAndValues{uploaded(prompt.k[layer]), uploaded(prompt.v[layer])};
  });
}

void Decoder::start(int64_t sequence, int64_t n_tokens,
                    const std::function<KeysAndValues(int64_t layer, int64_t first_position)>& rows) {
  if (n_tokens_.at(static_cast<size_t>(sequence)) != 0) throw std::invalid_argument("a sequence begins once");
  for (int64_t layer = 0; layer < model_.config().n_layers; ++layer)
    for (int64_t first = 0; first < n_tokens;) {
      const auto [k, v] = rows(layer, first);
      layers_[static_cast<size_t>(layer)]->write_prompt(sequence, first, k, v);
      first += k.shape[0];
    }
  n_tokens_[sequence] = n_tokens;
}

std::vector<float> Decoder::step(std::span<const NextToken> tokens) {
  return backend_.to_host(step_on_backend(tokens));
}

Tensor<float, 2> Decoder::step_on_backend(std::span<const NextToken> tokens) {
  std::vector<int32_t> ids;
  for (const NextToken& next : tokens) ids.push_back(next.token);
  model_.require_tokens(ids);
  std::vector<WindowSpan> spans;
  std::vector<RowMove> moved;
  for (const NextToken& next : tokens)
    spans.push_back(window_.push(next.sequence, n_tokens_.at(static_cast<size_t>(next.sequence))++, moved));
  windows_.set(backend_, std::move(spans));
  newest_.set(backend_, windows_.newest_spans());
  backend_.upload(tokens_.data(), ids.data(), static_cast<int64_t>(ids.size() * sizeof(int32_t)));
  if (!moved.empty()) {
    const KeptRowMoves moves(backend_, moved);
    moves.apply(backend_, entry_);
    for (const auto& layer : layers_) layer->move_rows(moves);
  }
  run_step();
  if (selection_observer_) show_selections();
  return backend_.rows_of(logits_, 0, newest_.size());
}

void Decoder::run_step() {
  const auto work = [&] { run_layers(); };
  int64_t longest = 0;
  for (const WindowSpan& span : windows_.spans) longest = std::max(longest, span.position);
  // Where the longest sequence has doubled, dense attention would be cut in other pieces.
  const StepShape shape{newest_.size(), windows_.size(), windows_.window(),
                        static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(longest)))};
  const bool is_seen = std::exchange(last_shape_, shape) == shape;
  // Another step may have made larger what primitives keep for their queries.
  if (!is_seen) recording_.reset();
  if (!can_be_recorded_ || !is_seen) return work();
  if (recording_) return recording_->rerun([] {}, work);
  recording_ = backend_.record([] {}, work);
  recorded_memory_ = model_.compute().workspace();
  if (recording_) return;  // which ran it
  can_be_recorded_ = false;
  work();
}

void Decoder::run_layers() {
  const int64_t n = newest_.size(), n_layers = model_.config().n_layers;
  Tensor<float, 2> x = backend_.rows_of(newest_x_, 0, n);
  model_.compute().embed(backend_.rows_of(tokens_, 0, n), x);
  for (int64_t layer = 0; layer < first_sparse_; ++layer) x = run_layer(layer, newest_, newest_, x);
  if (first_sparse_ < n_layers) {
    backend_.copy_rows(x, {}, entry_, newest_.kept, n);
    x = backend_.rows_of(x_, 0, windows_.size());
    backend_.copy_rows(entry_, windows_.kept, x, {}, windows_.size());
    for (int64_t layer = first_sparse_; layer < n_layers; ++layer)
      x = run_layer(layer, windows_, layer + 1 == n_layers ? newest_ : windows_, x);
  }
  model_.compute().logits(x, backend_.rows_of(logits_, 0, n));
}

Tensor<float, 2> Decoder::run_layer(int64_t layer, const LayerRows& rows, const LayerRows& wanted,
                                    const Tensor<float, 2>& x) {
  const int64_t n = rows.size();
  const ProjectedRows projected{backend_.rows_of(projected_.q, 0, n), backend_.rows_of(projected_.k, 0, n),
                                backend_.rows_of(projected_.v, 0, n)};
  model_.compute().project(layer, x, rows.positions, projected);
  const ChosenRows attended = layers_[static_cast<size_t>(layer)]->attend(rows, wanted, projected);
  Tensor<float, 2> result = x;
  if (wanted.size() < n) {
    result = backend_.rows_of(newest_x_, 0, wanted.size());
    backend_.copy_rows(x, rows.newest, result, {}, wanted.size());
  }
  model_.compute().finish_layer(layer, attended, result);
  if (observer_) observer_(layer, wanted.spans, result);
  return result;
}

void Decoder::show_selections() {
  const int64_t n_layers = model_.config().n_layers;
  for (int64_t layer = first_sparse_; layer < n_layers; ++layer)
    if (std::optional<SelectionDownload> selection =
            layers_[static_cast<size_t>(layer)]->selection(newest_.block, with_true_mass_))
      selection_observer_(layer, layer + 1 == n_layers ? newest_.spans : windows_.spans,
                          std::move(*selection));
}

Decoder::Memory Decoder::memory() const {
  Memory memory;
  for (const auto& layer : layers_) {
    const AttentionBytes bytes = layer->bytes();
    memory.attention.cache += bytes.cache;
    memory.attention.summaries += bytes.summaries;
    memory.attention.outputs += bytes.outputs;
    memory.attention.workspace += bytes.workspace;
  }
  memory.hidden = entry_.storage->bytes();
  for (const Storage* storage :
       {newest_x_.storage.get(), x_.storage.get(), projected_.q.storage.get(), projected_.k.storage.get(),
        projected_.v.storage.get(), logits_.storage.get()})
    memory.workspace += storage->bytes();
  return memory;
}

}  // namespace hindsight
