#pragma once
// A model that decodes a batch of sequences with one method, a token of each at a time.

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "model/layer_attention.h"
#include "model/prompt.h"

namespace hindsight {

/// The next token of a sequence.
struct NextToken {
  int64_t sequence = 0;
  int32_t token = 0;
};

/// Sees the residual stream after a layer, x [rows, hidden]: the positions of one span after another. The
/// newest row of a span is that position's first; a past one replaces what it was. In the last layer past
/// positions are not computed: what is there first is final. Called while the step's work is handed over,
/// which may be recorded: it asks for the same primitives at every step, on tensors that stay but for what
/// a primitive takes anew (Backend::compare_rows), and reads nothing back (Backend::record).
using HiddenObserver =
    std::function<void(int64_t layer, std::span<const WindowSpan> spans, const Tensor<float, 2>& x)>;

/// The first `dense_layers` layers attend densely, and all where the selector loads everything.
int64_t first_sparse_layer_of(const ModelConfig& config, const DecodingMethod& method);

class Decoder {
 public:
  /// capacities: most tokens of each sequence, prompt included. `model` and `backend` outlive the decoder.
  Decoder(const Model& model, Backend& backend, const DecodingMethod& method,
          std::span<const int64_t> capacities);

  /// Begins a sequence; once each.
  void start(int64_t sequence, const Prompt& prompt);
  /// The same with keys and values of n_tokens that are on the backend: `rows` gives those of a layer,
  /// [n, Hkv, d] each, position by position until there are n_tokens of them.
  using KeysAndValues = std::pair<Tensor<float, 3>, Tensor<float, 3>>;
  void start(int64_t sequence, int64_t n_tokens,
             const std::function<KeysAndValues(int64_t layer, int64_t first_position)>& rows);
  /// Takes the next token of some sequences, each at most once. Returns logits [n, vocabulary] of the tokens
  /// after them. Throws std::invalid_argument where a sequence is at its capacity, std::out_of_range for a
  /// token that the vocabulary lacks; after that the decoder is of no more use.
  std::vector<float> step(std::span<const NextToken> tokens);
  /// The same without waiting: the logits stay on the backend, until the next step.
  Tensor<float, 2> step_on_backend(std::span<const NextToken> tokens);
  void observe_hidden(HiddenObserver observer) { observer_ = std::move(observer); }
  /// Called once a step is handed over. True mass takes a look at all keys.
  void observe_selections(SelectionObserver observer, bool with_true_mass) {
    selection_observer_ = std::move(observer);
    with_true_mass_ = with_true_mass;
  }
  /// Layers below it attend densely; their positions are computed once.
  int64_t first_sparse_layer() const { return first_sparse_; }
  int64_t n_layers() const { return model_.config().n_layers; }
  /// That a step can have in a layer: the positions of every sequence's window.
  int64_t most_rows() const { return x_.shape[0]; }

  /// What the decoder holds on its backend, in bytes; the model's own is not in it.
  struct Memory {
    AttentionBytes attention;  ///< of all layers
    int64_t hidden = 0;        ///< rows that enter the first sparse layer
    int64_t workspace = 0;     ///< rows on their way
  };
  Memory memory() const;

 private:
  /// What the primitives of a step depend on beside small arrays: sequences, rows, most rows of one, binary
  /// digits of the longest one's length.
  using StepShape = std::array<int64_t, 4>;

  /// The layers of a step, as a recording (a CUDA graph) once its shape has come twice. Outside of it stay
  /// what is sent to the backend before, and the moves of kept rows every w + 1 steps.
  void run_step();
  void run_layers();
  /// Rows x through a layer: [rows.size(), hidden] on the way in, [wanted.size(), hidden] out.
  Tensor<float, 2> run_layer(int64_t layer, const LayerRows& rows, const LayerRows& wanted,
                             const Tensor<float, 2>& x);
  void show_selections();

  const Model& model_;
  Backend& backend_;
  int64_t first_sparse_;
  WindowRows window_;
  Tensor<float, 2> entry_;      ///< [kept rows, hidden]: what enters the first sparse layer
  LayerRows windows_, newest_;  ///< of the step: all rows, and the newest of each sequence
  Tensor<int32_t, 1> tokens_;
  // Of as many rows as a step may have; steps use the first of them.
  Tensor<float, 2> newest_x_, x_;  ///< [batch, hidden], [batch * w, hidden]
  ProjectedRows projected_;
  Tensor<float, 2> logits_;
  std::vector<std::unique_ptr<LayerAttention>> layers_;
  std::vector<int64_t> n_tokens_;  ///< of each sequence
  HiddenObserver observer_;
  SelectionObserver selection_observer_;
  bool with_true_mass_ = false;
  bool can_be_recorded_ = true;
  StepShape last_shape_{};
  std::vector<std::shared_ptr<Storage>> recorded_memory_;  ///< of the model, which may take other by and by
  std::unique_ptr<Recording> recording_;                   ///< of steps of the last shape
};

}  // namespace hindsight
