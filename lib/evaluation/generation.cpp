#include "evaluation/generation.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace hindsight {

AnswerScore score_answer(std::span<const int32_t> written, const EvalSequence& sequence) {
  const std::vector<int32_t>& answer = sequence.answer;
  if (answer.empty()) {
    constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
    return {undefined, undefined, undefined, undefined};
  }
  const auto is_right = [&](int64_t place) {
    return place < static_cast<int64_t>(written.size()) && written[place] == answer[place];
  };
  const auto length = static_cast<int64_t>(answer.size());
  int64_t first_error = 0;
  while (first_error < length && is_right(first_error)) ++first_error;
  int64_t right = 0, before = 0, seen = 0;
  for (const ScoredSpan& span : sequence.scored) {
    bool whole = true;
    for (int64_t place = span.first; place < span.last; ++place) whole = whole && is_right(place);
    if (whole && before == seen) ++before;
    if (whole) ++right;
    ++seen;
  }
  const auto spans = static_cast<double>(sequence.scored.size());
  return {static_cast<double>(right) / spans, static_cast<double>(before) / spans,
          first_error == length ? 1.0 : 0.0, static_cast<double>(first_error)};
}

std::vector<Generated> generate(const Model& model, Backend& backend, const DecodingMethod& method,
                                std::span<const EvalSequence* const> sequences,
                                std::span<const std::shared_ptr<const Prompt>> prompts,
                                const Sampling& sampling, int64_t index, bool with_recall,
                                const std::function<void(int64_t tokens)>& step_done) {
  std::vector<int64_t> capacities;
  for (const EvalSequence* sequence : sequences) capacities.push_back(sequence->total_tokens());
  Decoder decoder(model, backend, method, capacities);
  SelectionMeasures selections(decoder, method, sequences, with_recall);
  std::vector<Generated> generated(sequences.size());
  const std::vector<int64_t>& ends = model.config().eos;
  // The next token of each sequence that goes on.
  std::vector<NextToken> next;
  const auto write = [&](size_t s, std::span<const float> logits) {
    std::vector<int32_t>& written = generated[s].tokens;
    const int64_t position = sequences[s]->prompt_tokens + static_cast<int64_t>(written.size());
    const int32_t token = next_token(logits, sampling, index + static_cast<int64_t>(s), position);
    written.push_back(token);
    const bool ended = std::find(ends.begin(), ends.end(), token) != ends.end();
    if (!ended && static_cast<int64_t>(written.size()) < sequences[s]->new_tokens)
      next.push_back({static_cast<int64_t>(s), token});
  };
  for (size_t s = 0; s < sequences.size(); ++s) {
    decoder.start(static_cast<int64_t>(s), *prompts[s]);
    write(s, prompts[s]->logits);
  }
  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  while (!next.empty()) {
    const std::vector<NextToken> taken = std::exchange(next, {});
    const std::vector<float> logits = decoder.step(taken);
    selections.take(selections.last_step());
    for (size_t i = 0; i < taken.size(); ++i)
      write(static_cast<size_t>(taken[i].sequence), std::span(logits).subspan(i * vocabulary, vocabulary));
    step_done(static_cast<int64_t>(taken.size()));
  }
  for (size_t s = 0; s < sequences.size(); ++s) generated[s].selection = selections.finish(s);
  return generated;
}

}  // namespace hindsight
