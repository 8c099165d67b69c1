#include "evaluation/eval_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/mapped_file.h"
#include "trace/trace.h"

namespace hindsight {
namespace {

using Json = nlohmann::json;

constexpr int64_t byte_vocabulary = 256;

bool is_byte_level(const ModelConfig& model) { return model.vocabulary == byte_vocabulary; }

/// Bytes as tokens, byte 0 in front.
std::vector<int32_t> tokens_of_bytes(std::string_view bytes, bool begins) {
  std::vector<int32_t> tokens;
  if (begins && (bytes.empty() || bytes.front() != '\0')) tokens.push_back(0);
  for (const char byte : bytes) tokens.push_back(static_cast<unsigned char>(byte));
  return tokens;
}

/// The lines and the tokens of a file.
class TokenReader {
 public:
  TokenReader(const TraceFile& file, const ModelConfig& model)
      : file_(file), model_(model), mapped_(file.file) {}

 protected:
  [[noreturn]] void refuse(const std::string& what) const {
    throw InputError(line_ > 0 ? fmt::format("{}:{}: {}", file_.file.string(), line_, what)
                               : fmt::format("{}: {}", file_.file.string(), what));
  }
  bool has_lines() const { return file_.file.extension() == ".jsonl"; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(mapped_.bytes().data()), mapped_.bytes().size()};
  }
  void require_bytes() const {
    if (!is_byte_level(model_))
      refuse(
          fmt::format("is read as bytes, and the model's {} tokens are none; a .jsonl of token ids would be "
                      "right",
                      model_.vocabulary));
  }

  /// Calls take(object) for each line until it returns false.
  template <class Take>
  void for_each_line(Take&& take) {
    std::string_view rest = text();
    bool goes_on = true;
    while (goes_on && !rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      ++line_;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const Json json = Json::parse(line.begin(), line.end(), nullptr, false);
      if (!json.is_object()) refuse("is no JSON object");
      goes_on = take(json);
    }
    line_ = 0;
  }

  /// Ids, or a text where tokens are bytes; nothing where the key is not there. `begins`: byte 0 comes first.
  std::optional<std::vector<int32_t>> tokens_of(const Json& json, const char* key, bool begins) const {
    if (!json.contains(key)) return std::nullopt;
    const Json& value = json[key];
    if (value.is_string()) {
      if (!is_byte_level(model_))
        refuse(
            fmt::format("{}: is a text, and the model's {} tokens are no bytes; a list of token ids would be "
                        "right",
                        key, model_.vocabulary));
      return tokens_of_bytes(value.get_ref<const std::string&>(), begins);
    }
    if (!value.is_array()) refuse(fmt::format("{}: a text or a list of token ids would be right", key));
    std::vector<int32_t> tokens;
    for (const Json& token : value) {
      if (!token.is_number_unsigned() || token.get<uint64_t>() >= static_cast<uint64_t>(model_.vocabulary))
        refuse(fmt::format("{}: item {} is no token; 0 to {} would be right", key, tokens.size(),
                           model_.vocabulary - 1));
      tokens.push_back(token.get<int32_t>());
    }
    return tokens;
  }
  /// What a line calls its text.
  std::optional<std::vector<int32_t>> whole_text_of(const Json& json) const {
    auto whole = tokens_of(json, "tokens", true);
    return whole ? whole : tokens_of(json, "text", true);
  }

  const TraceFile& file_;
  const ModelConfig& model_;
  MappedFile mapped_;
  int64_t line_ = 0;  // 0: of no line
};

class DataReader : TokenReader {
 public:
  DataReader(const TraceFile& file, const EvalPlan& plan, const ModelConfig& model)
      : TokenReader(file, model), plan_(plan) {}

  std::vector<EvalSequence> read() {
    if (has_lines())
      for_each_line([&](const Json& json) {
        take_line(json);
        return true;
      });
    else if (file_.file.extension() == ".h5")
      read_trace();
    else
      read_bytes(text());
    if (sequences_.empty()) refuse("holds no sequence that is long enough");
    return plan_.sequences ? spread(static_cast<size_t>(*plan_.sequences)) : std::move(sequences_);
  }

 private:
  [[noreturn]] void refuse_configuration(const std::string& key, const std::string& what) const {
    throw ConfigError(fmt::format("{}: {}: {}", plan_.file.string(), key, what));
  }
  /// So many of all, evenly: files are often ordered, by document or by difficulty, and the first of them
  /// would say little of the others.
  std::vector<EvalSequence> spread(size_t n) {
    const size_t all = sequences_.size();
    if (n >= all) return std::move(sequences_);
    std::vector<EvalSequence> chosen;
    for (size_t i = 0; i < n; ++i) chosen.push_back(std::move(sequences_[i * all / n]));
    return chosen;
  }

  void take_line(const Json& json) {
    const auto prompt = tokens_of(json, "prompt", true), answer = tokens_of(json, "answer", false);
    const auto whole = whole_text_of(json);
    if (prompt.has_value() == whole.has_value()) refuse("needs prompt (and answer), or else tokens or text");
    if (plan_.mode == EvalMode::generate) {
      EvalSequence sequence =
          after_prompt(prompt ? *prompt : *whole, answer.value_or(std::vector<int32_t>{}));
      if (json.contains("scored")) take_spans(json["scored"], sequence);
      return add(std::move(sequence));
    }
    if (!prompt) return add(forced(*whole, std::nullopt));
    if (!answer) refuse("has a prompt and no answer; the text that follows would be right");
    std::vector<int32_t> tokens = *prompt;
    tokens.insert(tokens.end(), answer->begin(), answer->end());
    add(forced(std::move(tokens), static_cast<int64_t>(prompt->size())));
  }

  /// The tokens of a trace: what was captured in the open loop, decoded in the closed one.
  void read_trace() {
    const TraceReader trace(file_.file);
    const std::optional<std::vector<int32_t>> tokens = trace.tokens();
    if (!tokens) refuse("/tokens: is missing; a trace that holds the ids of its tokens would be right");
    for (const int32_t token : *tokens)
      if (token < 0 || token >= model_.vocabulary)
        refuse(fmt::format("/tokens: {} is no token of the model; 0 to {} would be right", token,
                           model_.vocabulary - 1));
    const int64_t prompt_tokens = trace.info().prompt_tokens;
    const auto end_of_prompt = tokens->begin() + prompt_tokens;
    if (plan_.mode == EvalMode::generate)
      add(after_prompt({tokens->begin(), end_of_prompt}, {end_of_prompt, tokens->end()}));
    else
      add(forced(*tokens, prompt_tokens));
  }

  /// A prompt that the model continues; the answer is one part until somebody says otherwise.
  EvalSequence after_prompt(std::vector<int32_t> prompt, std::vector<int32_t> answer) const {
    EvalSequence sequence;
    sequence.tokens = std::move(prompt);
    sequence.prompt_tokens = static_cast<int64_t>(sequence.tokens.size());
    sequence.answer = std::move(answer);
    const auto length = static_cast<int64_t>(sequence.answer.size());
    if (length > 0) sequence.scored = {{0, length}};
    sequence.new_tokens = plan_.max_new_tokens.value_or(length);
    if (sequence.new_tokens == 0)
      refuse("has no answer whose length would say how much to write; max_new_tokens would be right");
    return sequence;
  }

  /// A text that is given, with the prompt that it says itself.
  EvalSequence forced(std::vector<int32_t> tokens, std::optional<int64_t> own_prompt) const {
    if (!plan_.prompt_tokens && !own_prompt)
      refuse_configuration("prompt_tokens", "is missing, and " + file_.name + " has lines without a prompt");
    EvalSequence sequence;
    sequence.tokens = std::move(tokens);
    sequence.prompt_tokens = plan_.prompt_tokens ? *plan_.prompt_tokens : *own_prompt;
    if (plan_.tokens && static_cast<int64_t>(sequence.tokens.size()) > *plan_.tokens)
      sequence.tokens.resize(static_cast<size_t>(*plan_.tokens));
    if (static_cast<int64_t>(sequence.tokens.size()) < sequence.prompt_tokens + 2)
      refuse(fmt::format("has {} tokens, which leaves nothing to measure after a prompt of {}",
                         sequence.tokens.size(), sequence.prompt_tokens));
    return sequence;
  }

  void take_spans(const Json& spans, EvalSequence& sequence) const {
    const auto length = static_cast<int64_t>(sequence.answer.size());
    sequence.scored.clear();
    if (!spans.is_array() || spans.empty()) refuse("scored: a list of [first, last] would be right");
    for (const Json& span : spans) {
      const bool is_pair =
          span.is_array() && span.size() == 2 && span[0].is_number_unsigned() && span[1].is_number_unsigned();
      if (!is_pair || span[0].get<uint64_t>() >= span[1].get<uint64_t>() ||
          span[1].get<uint64_t>() > static_cast<uint64_t>(length))
        refuse(fmt::format("scored: item {} is no [first, last] of an answer of {} tokens",
                           sequence.scored.size(), length));
      sequence.scored.push_back({span[0].get<int64_t>(), span[1].get<int64_t>()});
    }
  }

  void read_bytes(std::string_view text) {
    if (!is_byte_level(model_))
      refuse(
          fmt::format("is read as bytes, and the model's {} tokens are none; a .jsonl of token ids would be "
                      "right",
                      model_.vocabulary));
    if (plan_.mode == EvalMode::generate)
      refuse("is read as bytes, which say no prompts; mode generate needs a .jsonl");
    if (!plan_.tokens || !plan_.prompt_tokens)
      refuse_configuration(plan_.tokens ? "prompt_tokens" : "tokens",
                           "is missing; " + file_.name + " is cut into sequences by it");
    const auto size = static_cast<size_t>(*plan_.tokens - 1);  // after byte 0
    while (!text.empty()) {
      const size_t end = std::min(text.find('\0'), text.size());
      for (size_t start = 0; start + size <= end; start += size) {
        EvalSequence sequence;
        sequence.tokens = tokens_of_bytes(text.substr(start, size), true);
        sequence.prompt_tokens = *plan_.prompt_tokens;
        add(std::move(sequence));
      }
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  void add(EvalSequence sequence) {
    if (sequence.tokens.empty() || sequence.prompt_tokens < 1) refuse("has an empty prompt");
    if (sequence.total_tokens() > model_.context)
      refuse(fmt::format("a sequence of {} tokens exceeds the model's context of {}", sequence.total_tokens(),
                         model_.context));
    sequences_.push_back(std::move(sequence));
  }

  const EvalPlan& plan_;
  std::vector<EvalSequence> sequences_;
};

/// The one text of a file.
class WholeTextReader : TokenReader {
 public:
  using TokenReader::TokenReader;

  std::vector<int32_t> read() {
    if (!has_lines()) {
      require_bytes();
      return tokens_of_bytes(text(), true);
    }
    std::optional<std::vector<int32_t>> tokens;
    for_each_line([&](const Json& json) {
      tokens = whole_text_of(json);
      if (!tokens) refuse("needs tokens or text");
      return false;
    });
    if (!tokens) refuse("holds no line");
    return *tokens;
  }
};

}  // namespace

EvalData read_eval_data(const TraceFile& file, const EvalPlan& plan, const ModelConfig& model) {
  EvalData data;
  data.name = file.name;
  data.sequences = DataReader(file, plan, model).read();
  data.digest = file_digest(file.file);
  return data;
}

std::vector<int32_t> read_whole_text(const TraceFile& file, const ModelConfig& model) {
  return WholeTextReader(file, model).read();
}

}  // namespace hindsight
