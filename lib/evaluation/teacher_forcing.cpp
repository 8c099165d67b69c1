#include "evaluation/teacher_forcing.h"

#include <algorithm>
#include <optional>

#include "core/parallel.h"
#include "evaluation/hidden_errors.h"
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
    for (int64_t layer = 0; layer < config.n_layers; ++layer)
      reference.hidden.push_back(backend.make_tensor<float, 2>({end - first, config.hidden}));
  }
  void on_chunk(int64_t) override { check_interrupt_(); }
  void on_layer(int64_t layer, int64_t first_position, const Tensor<float, 2>& x) override {
    const int64_t from = std::max(first_, first_position), to = std::min(end_, first_position + x.shape[0]);
    if (from >= to) return;
    const int64_t n = to - from;
    const Tensor<float, 2> rows = backend_.rows_of(x, from - first_position, n);
    backend_.copy_rows(
        rows, {}, backend_.rows_of(reference_.hidden[static_cast<size_t>(layer)], from - first_, n), {}, n);
    if (layer + 1 < model_.config().n_layers) return;
    const auto on_backend = backend_.make_tensor<float, 2>({n, model_.config().vocabulary});
    model_.compute().logits(rows, on_backend);
    const std::vector<float> logits = backend_.to_host(on_backend);
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

  void take_hidden_error(int64_t layer, int64_t position, bool is_first, double error) {
    const int64_t step = position - sequence_.prompt_tokens;
    const auto cell = static_cast<size_t>(step * n_layers() + layer - first_layer_);
    measured_.hidden_final[cell] = error;
    if (is_first) measured_.hidden_first[cell] = error;
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

/// What a step gives, until it has arrived on the host.
struct StepOnItsWay {
  int64_t index = 0;
  std::vector<NextToken> taken;
  Download<float> logits;
  HiddenErrors::OfStep hidden;
  SelectionMeasures::OfStep selections;
};

/// Fewer are looked at before threads are awake.
constexpr size_t logits_worth_threads = 1 << 13;

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

HeldBytes held_by(const DenseReference& reference) {
  HeldBytes held{reference.prompt.bytes() + static_cast<int64_t>(reference.logits.size() * sizeof(float)), 0};
  for (const Tensor<float, 2>& layer : reference.hidden)
    (reference.is_on_device ? held.device : held.host) += layer.storage->bytes();
  return held;
}

int64_t teacher_forced_steps(const EvalSequence& sequence) {
  return static_cast<int64_t>(sequence.tokens.size()) - 1 - sequence.prompt_tokens;
}

DenseReference make_reference(const Model& model, Backend& backend, const EvalSequence& sequence,
                              const std::function<void()>& check_interrupt) {
  DenseReference reference;
  reference.is_on_device = backend.is_device();
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
  HiddenErrors hidden(backend, decoder, first_layer, [&](int64_t layer, const WindowSpan& span) {
    const auto s = static_cast<size_t>(span.sequence);
    return backend.rows_of(references[s]->hidden[static_cast<size_t>(layer)],
                           span.first_position() - sequences[s]->prompt_tokens, span.rows);
  });

  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  const auto take = [&](const StepOnItsWay& step) {
    const std::vector<float> logits = step.logits.get();
    for_each_piece(static_cast<int64_t>(step.taken.size()), logits.size() >= logits_worth_threads,
                   [&](int64_t i) {
                     const auto row = static_cast<size_t>(i);
                     measures[static_cast<size_t>(step.taken[row].sequence)].take_logits(
                         step.index, std::span(logits).subspan(row * vocabulary, vocabulary));
                   });
    step.hidden.show([&](int64_t sequence, int64_t layer, int64_t position, bool is_first, double error) {
      measures[static_cast<size_t>(sequence)].take_hidden_error(layer, position, is_first, error);
    });
    selections.take(step.selections);
    step_done(static_cast<int64_t>(step.taken.size()));
  };
  std::optional<StepOnItsWay> before;
  for (int64_t step = 0; step < most_steps; ++step) {
    std::vector<NextToken> next;
    for (size_t s = 0; s < sequences.size(); ++s)
      if (step < measures[s].steps()) next.push_back({static_cast<int64_t>(s), measures[s].token(step)});
    const Tensor<float, 2> logits = decoder.step_on_backend(next);
    StepOnItsWay now{step, std::move(next), backend.begin_to_host(logits), hidden.last_step(),
                     selections.last_step()};
    // While a device computes this step, the host looks at the one before.
    if (before) take(*before);
    before = std::move(now);
  }
  if (before) take(*before);
  std::vector<TeacherForced> measured;
  for (size_t s = 0; s < sequences.size(); ++s) {
    measured.push_back(measures[s].take());
    measured.back().selection = selections.finish(s);
  }
  return measured;
}

}  // namespace hindsight
