#pragma once
// What a model writes with a method after prompts, and how much of the expected answer that is.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "evaluation/eval_data.h"
#include "evaluation/selection_measure.h"
#include "model/decoder.h"
#include "model/sampling.h"

namespace hindsight {

/// Shares of the expected answer; NaN where none is expected.
struct AnswerScore {
  double accuracy = 0;            ///< of the scored spans, those that are right
  double before_first_error = 0;  ///< of the scored spans, those before the first that is wrong
  double exact = 0;               ///< 1 where every token is right
  double first_error = 0;         ///< place of the first wrong token; the answer's length where there is none
};

/// What is missing is wrong; what is written beyond the answer does not count.
AnswerScore score_answer(std::span<const int32_t> written, const EvalSequence& sequence);

struct Generated {
  std::vector<int32_t> tokens;
  SelectionMetrics selection;  ///< empty where everything is loaded; step i takes token i
};

/// Writes after the prompts, decoded together: at most sequence.new_tokens of each, up to and with the
/// model's end of text. `index` of the first sequence tells draws apart. `with_recall` and `step_done` as in
/// teacher_forcing.h.
std::vector<Generated> generate(const Model& model, Backend& backend, const DecodingMethod& method,
                                std::span<const EvalSequence* const> sequences,
                                std::span<const std::shared_ptr<const Prompt>> prompts,
                                const Sampling& sampling, int64_t index, bool with_recall,
                                const std::function<void(int64_t tokens)>& step_done);

}  // namespace hindsight
