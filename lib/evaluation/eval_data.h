#pragma once
// What is evaluated: sequences of tokens, from JSON lines or from raw bytes.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/eval_plan.h"
#include "model/model_config.h"

namespace hindsight {

/// Tokens [first, last) of an answer that are right or wrong together: a value, a hop, a line.
struct ScoredSpan {
  int64_t first = 0, last = 0;
};

struct EvalSequence {
  /// teacher_forced: the whole text, of which prompt_tokens are attended densely. generate: the prompt.
  std::vector<int32_t> tokens;
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;          ///< generate: most that are written
  std::vector<int32_t> answer;     ///< generate: what is expected; may be empty
  std::vector<ScoredSpan> scored;  ///< of the answer
  int64_t total_tokens() const { return static_cast<int64_t>(tokens.size()) + new_tokens; }
};

/// One file of the configuration.
struct EvalData {
  std::string name;    ///< as the configuration names it
  std::string digest;  ///< SHA-256 of the file
  std::vector<EvalSequence> sequences;
};

/// Reads a file.
///
/// .jsonl: an object a line, with `prompt` and `answer`, or with `tokens` or `text`; each a list of token
/// ids, or a text where the model's tokens are bytes. `scored`: [[first, last], ...], spans of the answer;
/// none: the answer is one. Other keys are somebody else's. Any other name: bytes, for models whose tokens
/// are bytes; documents end at a byte 0, and every `tokens` of the configuration in a document are a
/// sequence.
///
/// Byte 0 comes first in a text: it is put there where it is not. Throws InputError (file:line: what is
/// wrong) and ConfigError (the configuration lacks what the file needs).
EvalData read_eval_data(const TraceFile& file, const EvalPlan& plan, const ModelConfig& model);

/// All tokens of a text, or of the `tokens` or `text` of the first line of a .jsonl. Throws InputError.
std::vector<int32_t> read_whole_text(const TraceFile& file, const ModelConfig& model);

}  // namespace hindsight
