#include "evaluation/teacher_forcing.h"

#include <algorithm>

#include "evaluation/token_metrics.h"

namespace hindsight {
namespace {

/// Keeps hidden rows and logits of the positions from `first` to before `end`.
class ReferenceRecorder final : public PrefillObserver {
 public:
  ReferenceRecorder(const Model& model, Backend& backend, int64_t first, int64_t end,
                    DenseReference& reference, const std::function<void()>& check_interrupt)
      : model_(model),
        backend_(backend),
        first_(first),
        end_(end),
        reference_(reference),
        check_interrupt_(check_interrupt) {
    const ModelConfig& config = model.config();
    reference.logits.reserve(static_cast<size_t>((end - first) * config.vocabulary));
    reference.hidden.resize(static_cast<size_t>((end - first) * config.n_layers * config.hidden));
  }
  void on_chunk(int64_t) override { check_interrupt_(); }
  void on_layer(int64_t layer, int64_t first_position, std::span<const float> rows) override {
    const int64_t hidden = model_.config().hidden, n_layers = model_.config().n_layers;
    const int64_t n = static_cast<int64_t>(rows.size()) / hidden;
    const int64_t from = std::max(first_, first_position), to = std::min(end_, first_position + n);
    if (from >= to) return;
    for (int64_t position = from; position < to; ++position)
      std::copy_n(rows.begin() + (position - first_position) * hidden, hidden,
                  reference_.hidden.begin() + ((position - first_) * n_layers + layer) * hidden);
    if (layer + 1 < n_layers) return;
    const std::vector<float> logits =
        model_.logits(backend_, rows.subspan(static_cast<size_t>((from - first_position) * hidden),
                                             static_cast<size_t>((to - from) * hidden)));
    reference_.logits.insert(reference_.logits.end(), logits.begin(), logits.end());
  }

 private:
  const Model& model_;
  Backend& backend_;
  int64_t first_, end_;
  DenseReference& reference_;
  const std::function<void()>& check_interrupt_;
};

/// The measurement of one sequence as it goes on.
class SequenceMeasure {
 public:
  SequenceMeasure(const ModelConfig& config, const EvalSequence& sequence, const DenseReference& reference,
                  int64_t first_layer)
      : config_(config), sequence_(sequence), reference_(reference), first_layer_(first_layer) {
    const auto cells = static_cast<size_t>(steps() * n_layers());
    measured_.hidden_first.resize(cells);
    measured_.hidden_final.resize(cells);
  }

  int64_t steps() const { return teacher_forced_steps(sequence_); }
  int32_t token(int64_t step) const {
    return sequence_.tokens[static_cast<size_t>(sequence_.prompt_tokens + step)];
  }

  void take_logits(int64_t step, std::span<const float> logits) {
    const auto vocabulary = static_cast<size_t>(config_.vocabulary);
    const auto reference =
        std::span(reference_.logits).subspan(static_cast<size_t>(step) * vocabulary, vocabulary);
    const double nll = negative_log_likelihood(logits, token(step + 1));
    measured_.nll.push_back(nll);
    measured_.delta_nll.push_back(nll - negative_log_likelihood(reference, token(step + 1)));
    measured_.logit_kl.push_back(logit_divergence(reference, logits));
    measured_.token_agreement.push_back(same_token(reference, logits) ? 1 : 0);
  }

  void take_hidden(int64_t layer, int64_t position, bool is_first, std::span<const float> row) {
    if (layer < first_layer_) return;
    const int64_t step = position - sequence_.prompt_tokens;
    const auto reference =
        std::span(reference_.hidden)
            .subspan(static_cast<size_t>((step * config_.n_layers + layer) * config_.hidden), row.size());
    const auto cell = static_cast<size_t>(step * n_layers() + layer - first_layer_);
    measured_.hidden_final[cell] = relative_l2(row, reference);
    if (is_first) measured_.hidden_first[cell] = measured_.hidden_final[cell];
  }

  TeacherForced take() { return std::move(measured_); }

 private:
  int64_t n_layers() const { return config_.n_layers - first_layer_; }

  const ModelConfig& config_;
  const EvalSequence& sequence_;
  const DenseReference& reference_;
  int64_t first_layer_;
  TeacherForced measured_;
};

Prompt first_tokens(Prompt prompt, int64_t n, const ModelConfig& config) {
  prompt.n_tokens = n;
  for (auto* layers : {&prompt.k, &prompt.v})
    for (auto& rows : *layers) {
      rows.resize(static_cast<size_t>(n * config.kv_size()));
      rows.shrink_to_fit();
    }
  prompt.logits.clear();
  return prompt;
}

}  // namespace

int64_t DenseReference::bytes() const {
  return prompt.bytes() + static_cast<int64_t>((logits.size() + hidden.size()) * sizeof(float));
}

int64_t teacher_forced_steps(const EvalSequence& sequence) {
  return static_cast<int64_t>(sequence.tokens.size()) - 1 - sequence.prompt_tokens;
}

DenseReference make_reference(const Model& model, Backend& backend, const EvalSequence& sequence,
                              const std::function<void()>& check_interrupt) {
  DenseReference reference;
  const auto end = static_cast<int64_t>(sequence.tokens.size()) - 1;
  ReferenceRecorder recorder(model, backend, sequence.prompt_tokens, end, reference, check_interrupt);
  const auto taken = std::span(sequence.tokens).first(static_cast<size_t>(end));
  reference.prompt =
      first_tokens(prefill(model, backend, taken, &recorder), sequence.prompt_tokens, model.config());
  return reference;
}

std::vector<TeacherForced> measure_teacher_forced(
    const Model& model, Backend& backend, const DecodingMethod& method,
    std::span<const EvalSequence* const> sequences,
    std::span<const std::shared_ptr<const DenseReference>> references, int64_t first_layer, bool with_recall,
    const std::function<void(int64_t tokens)>& step_done) {
  std::vector<int64_t> capacities;
  std::vector<SequenceMeasure> measures;
  int64_t most_steps = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    capacities.push_back(static_cast<int64_t>(sequences[s]->tokens.size()));
    measures.emplace_back(model.config(), *sequences[s], *references[s], first_layer);
    most_steps = std::max(most_steps, measures.back().steps());
  }
  Decoder decoder(model, backend, method, capacities);
  for (size_t s = 0; s < sequences.size(); ++s) decoder.start(static_cast<int64_t>(s), references[s]->prompt);
  SelectionMeasures selections(decoder, method, sequences, with_recall);
  const int64_t hidden = model.config().hidden;
  decoder.observe_hidden([&](int64_t layer, const WindowSpan& span, int64_t n, std::span<const float> rows) {
    for (int64_t i = 0; i < n; ++i)
      measures[static_cast<size_t>(span.sequence)].take_hidden(
          layer, span.position - (n - 1) + i, i == n - 1,
          rows.subspan(static_cast<size_t>(i * hidden), static_cast<size_t>(hidden)));
  });

  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  for (int64_t step = 0; step < most_steps; ++step) {
    std::vector<NextToken> next;
    for (size_t s = 0; s < sequences.size(); ++s)
      if (step < measures[s].steps()) next.push_back({static_cast<int64_t>(s), measures[s].token(step)});
    const std::vector<float> logits = decoder.step(next);
    for (size_t i = 0; i < next.size(); ++i)
      measures[static_cast<size_t>(next[i].sequence)].take_logits(
          step, std::span(logits).subspan(i * vocabulary, vocabulary));
    step_done(static_cast<int64_t>(next.size()));
  }
  std::vector<TeacherForced> measured;
  for (size_t s = 0; s < sequences.size(); ++s) {
    measured.push_back(measures[s].take());
    measured.back().selection = selections.finish(s);
  }
  return measured;
}

}  // namespace hindsight
