#pragma once
// A model that decodes a batch of sequences with one method, a token of each at a time.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/layer_attention.h"
#include "model/prompt.h"

namespace hindsight {

/// The next token of a sequence.
struct NextToken {
  int64_t sequence = 0;
  int32_t token = 0;
};

/// Sees the residual stream after a layer: rows [n, hidden] of the positions span.position - n + 1 ..
/// span.position. The newest row is that position's first; a past one replaces what it was. In the last layer
/// past positions are not computed: what is there first is final.
using HiddenObserver =
    std::function<void(int64_t layer, const WindowSpan& span, int64_t n, std::span<const float> rows)>;

class Decoder {
 public:
  /// capacities: most tokens of each sequence, prompt included. The first `dense_layers` layers attend
  /// densely, and all where the selector loads everything. `model` and `backend` outlive the decoder.
  Decoder(const Model& model, Backend& backend, const DecodingMethod& method,
          std::span<const int64_t> capacities);

  /// Begins a sequence; once each.
  void start(int64_t sequence, const Prompt& prompt);
  /// Takes the next token of some sequences, each at most once. Returns logits [n, vocabulary] of the tokens
  /// after them. Throws std::invalid_argument where a sequence is at its capacity, std::out_of_range for a
  /// token that the vocabulary lacks; after that the decoder is of no more use.
  std::vector<float> step(std::span<const NextToken> tokens);
  void observe_hidden(HiddenObserver observer) { observer_ = std::move(observer); }
  /// Layers below it attend densely; their positions are computed once.
  int64_t first_sparse_layer() const { return first_sparse_; }

 private:
  void run_layer(int64_t layer, std::span<const WindowSpan> spans, std::vector<float>& x);
  std::vector<float> rows_of_windows(std::span<const WindowSpan> spans) const;

  const Model& model_;
  int64_t first_sparse_;
  WindowRows window_;
  std::vector<float> entry_;  ///< [kept rows, hidden]: what enters the first sparse layer
  std::vector<std::unique_ptr<LayerAttention>> layers_;
  std::vector<int64_t> n_tokens_;  ///< of each sequence
  HiddenObserver observer_;
};

}  // namespace hindsight
