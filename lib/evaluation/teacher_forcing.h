#pragma once
// What a method says of given texts, step by step, against dense attention of the same texts. For a window of
// more than one a parallel pass over a text would not be equivalent (RetroAttention, section 3).

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "evaluation/eval_data.h"
#include "evaluation/kept_values.h"
#include "evaluation/selection_measure.h"
#include "model/decoder.h"

namespace hindsight {

/// Dense attention of a whole sequence. Step i takes the token at position prompt_tokens + i and says what
/// the next is; the last token of a sequence is said, and not taken.
struct DenseReference {
  Prompt prompt;              ///< of the first prompt_tokens tokens
  std::vector<float> logits;  ///< [steps, vocabulary]
  /// By layer: [steps, hidden] residual stream after it, where the backend computes.
  std::vector<Tensor<float, 2>> hidden;
  bool is_on_device = false;  ///< what the backend holds
};
HeldBytes held_by(const DenseReference& reference);

int64_t teacher_forced_steps(const EvalSequence& sequence);
DenseReference make_reference(const Model& model, Backend& backend, const EvalSequence& sequence,
                              const std::function<void()>& check_interrupt);

/// Of one sequence; hidden errors are NaN where the reference is 0. In the last layer past positions are not
/// computed again: its first errors are final.
struct TeacherForced {
  std::vector<double> nll, delta_nll, logit_kl, token_agreement;  ///< [steps]
  std::vector<double> hidden_first, hidden_final;                 ///< [steps, layers from first_layer on]
  SelectionMetrics selection;                                     ///< empty where everything is loaded
};

/// Decodes the sequences together. `with_recall`: true mass is measured. `step_done` is called after each
/// step with the tokens it took; what it throws ends the measurement.
std::vector<TeacherForced> measure_teacher_forced(
    const Model& model, Backend& backend, const DecodingMethod& method,
    std::span<const EvalSequence* const> sequences,
    std::span<const std::shared_ptr<const DenseReference>> references, int64_t first_layer, bool with_recall,
    const std::function<void(int64_t tokens)>& step_done);

}  // namespace hindsight
