#include "model/decoder.h"

#include <algorithm>
#include <stdexcept>

#include "methods/catalog.h"
#include "methods/retro.h"

namespace hindsight {
namespace {

int64_t first_sparse_layer_of(const ModelConfig& config, const DecodingMethod& method) {
  if (make_selector(method.selector, method.parameters)->is_dense()) return config.n_layers;
  return std::min(config.n_layers, method.parameters.integer("dense_layers"));
}

/// The newest position of each span alone.
std::vector<WindowSpan> newest_of(std::span<const WindowSpan> spans) {
  std::vector<WindowSpan> newest(spans.begin(), spans.end());
  for (WindowSpan& span : newest) span.rows = 1;
  return newest;
}

std::vector<int32_t> positions_of(std::span<const WindowSpan> spans) {
  std::vector<int32_t> positions;
  for (const WindowSpan& span : spans)
    for (int64_t past = span.rows - 1; past >= 0; --past)
      positions.push_back(static_cast<int32_t>(span.position - past));
  return positions;
}

/// Of rows [sum of span.rows, hidden], the newest of each span.
std::vector<float> newest_rows(std::span<const WindowSpan> spans, const std::vector<float>& x,
                               int64_t hidden) {
  std::vector<float> newest;
  int64_t row = 0;
  for (const WindowSpan& span : spans) {
    row += span.rows;
    newest.insert(newest.end(), x.begin() + (row - 1) * hidden, x.begin() + row * hidden);
  }
  return newest;
}

}  // namespace

Decoder::Decoder(const Model& model, Backend& backend, const DecodingMethod& method,
                 std::span<const int64_t> capacities)
    : model_(model),
      first_sparse_(first_sparse_layer_of(model.config(), method)),
      window_(static_cast<int64_t>(capacities.size()),
              first_sparse_ < model.config().n_layers ? retro_options(method.parameters).window : 1),
      entry_(static_cast<size_t>(window_.total_rows() * model.config().hidden)),
      n_tokens_(capacities.size(), 0) {
  for (int64_t layer = 0; layer < model.config().n_layers; ++layer) {
    const LayerShape shape = layer_shape(model.config(), layer);
    layers_.push_back(layer < first_sparse_
                          ? make_dense_attention(backend, shape, capacities)
                          : make_sparse_attention(backend, shape, method, capacities, window_.total_rows()));
  }
}

void Decoder::start(int64_t sequence, const Prompt& prompt) {
  if (n_tokens_.at(static_cast<size_t>(sequence)) != 0) throw std::invalid_argument("a sequence begins once");
  for (size_t layer = 0; layer < layers_.size(); ++layer)
    layers_[layer]->start(sequence, prompt.k[layer], prompt.v[layer]);
  n_tokens_[sequence] = prompt.n_tokens;
}

std::vector<float> Decoder::step(std::span<const NextToken> tokens) {
  const int64_t hidden = model_.config().hidden, n_layers = model_.config().n_layers;
  std::vector<int32_t> ids;
  std::vector<WindowSpan> spans;
  std::vector<RowMove> moves;
  for (const NextToken& next : tokens) {
    ids.push_back(next.token);
    spans.push_back(window_.push(next.sequence, n_tokens_.at(static_cast<size_t>(next.sequence))++, moves));
  }
  for (const RowMove& move : moves)
    std::copy_n(entry_.begin() + move.from * hidden, move.n * hidden, entry_.begin() + move.to * hidden);
  for (const auto& layer : layers_) layer->move_rows(moves);

  std::vector<float> x = model_.embed(ids);
  const std::vector<WindowSpan> newest = newest_of(spans);
  for (int64_t layer = 0; layer < first_sparse_; ++layer) run_layer(layer, newest, x);
  if (first_sparse_ < n_layers) {
    for (size_t i = 0; i < spans.size(); ++i)
      std::copy_n(x.begin() + static_cast<int64_t>(i) * hidden, hidden,
                  entry_.begin() + spans[i].kept_row * hidden);
    x = rows_of_windows(spans);
    for (int64_t layer = first_sparse_; layer < n_layers; ++layer) run_layer(layer, spans, x);
  }
  return model_.logits(x);
}

void Decoder::run_layer(int64_t layer, std::span<const WindowSpan> spans, std::vector<float>& x) {
  const int64_t hidden = model_.config().hidden;
  const bool newest_only = layer + 1 == model_.config().n_layers;
  const Projected rows = model_.project(layer, x, positions_of(spans));
  const std::vector<float> attended = layers_[layer]->attend(spans, rows, newest_only);
  if (newest_only) x = newest_rows(spans, x, hidden);
  model_.finish_layer(layer, attended, x);
  if (!observer_) return;
  int64_t row = 0;
  for (const WindowSpan& span : spans) {
    const int64_t n = newest_only ? 1 : span.rows;
    observer_(layer, span, n,
              std::span(x).subspan(static_cast<size_t>(row * hidden), static_cast<size_t>(n * hidden)));
    row += n;
  }
}

std::vector<float> Decoder::rows_of_windows(std::span<const WindowSpan> spans) const {
  const int64_t hidden = model_.config().hidden;
  std::vector<float> rows;
  for (const WindowSpan& span : spans)
    rows.insert(rows.end(), entry_.begin() + span.first_kept_row() * hidden,
                entry_.begin() + (span.kept_row + 1) * hidden);
  return rows;
}

}  // namespace hindsight
