#include "evaluation/trace_capture.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>
#include <memory>

#include "core/error.h"
#include "core/version.h"
#include "evaluation/eval_data.h"
#include "evaluation/generation.h"
#include "model/decoder.h"
#include "trace/trace_writer.h"

namespace hindsight {
namespace {

void check(const CaptureOptions& options, const ModelConfig& config, size_t text_tokens) {
  const auto refuse = [](const char* option, const std::string& what) {
    throw ConfigError(fmt::format("{}: {}", option, what));
  };
  if (options.tokens < 2 || options.tokens > config.context)
    refuse("--tokens", fmt::format("{} is out of range; 2 to the model's context of {} would be right",
                                   options.tokens, config.context));
  if (options.prompt_tokens < 1 || options.prompt_tokens >= options.tokens)
    refuse("--prompt-tokens", fmt::format("{} is out of range; 1 to --tokens - 1 = {} would be right",
                                          options.prompt_tokens, options.tokens - 1));
  if (options.generate < 0 || options.generate > options.tokens - options.prompt_tokens)
    refuse("--generate",
           fmt::format("{} is out of range; 0 to --tokens less --prompt-tokens = {} would be right",
                       options.generate, options.tokens - options.prompt_tokens));
  if (static_cast<int64_t>(text_tokens) < options.tokens - options.generate)
    refuse("--text", fmt::format("has {} tokens; at least --tokens less --generate = {} would be right",
                                 text_tokens, options.tokens - options.generate));
  for (const int64_t layer : options.layers)
    if (layer < 0 || layer >= config.n_layers)
      refuse("--layers",
             fmt::format("{} is out of range; 0 to {} would be right", layer, config.n_layers - 1));
  if (!(options.sampling.temperature >= 0))
    refuse("--temperature", "is negative; 0 (greedy) or more would be right");
}

std::string sha256_of(std::span<const int32_t> tokens) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(tokens.data()), tokens.size_bytes(), digest.data());
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

/// No path, so that it says the same wherever the trace was made.
std::string described(const Checkpoint& checkpoint, const CaptureOptions& options,
                      std::span<const int32_t> given) {
  const std::string how =
      options.sampling.temperature > 0
          ? fmt::format("temperature {}, seed {}", options.sampling.temperature, options.sampling.seed)
          : "greedy";
  const std::string generated =
      options.generate > 0 ? fmt::format("{} generated ({})", options.generate, how) : "none generated";
  return fmt::format(
      "hindsight trace capture {}; model sha256 {}; {} tokens given, sha256 as int32 {}; {}; computed in "
      "float32; {:%Y-%m-%d}",
      program_version(), checkpoint.digest(), given.size(), sha256_of(given), generated,
      fmt::gmtime(std::time(nullptr)));
}

/// The given tokens and those that the model writes after them, with dense attention.
std::vector<int32_t> continued(const Model& model, Backend& backend, std::vector<int32_t> given,
                               const CaptureOptions& options, const std::function<void(int64_t)>& step_done) {
  if (options.generate == 0) return given;
  EvalSequence sequence;
  sequence.tokens = given;
  sequence.prompt_tokens = static_cast<int64_t>(given.size());
  sequence.new_tokens = options.generate;
  const EvalSequence* sequences[] = {&sequence};
  const std::shared_ptr<const Prompt> prompts[] = {
      std::make_shared<const Prompt>(prefill(model, backend, given))};
  DecodingMethod dense{"dense", {}};
  dense.parameters.set("page_size", int64_t{16});
  dense.parameters.set("dense_layers", int64_t{0});
  const std::vector<int32_t> written =
      generate(model, backend, dense, sequences, prompts, options.sampling, 0, false, step_done)
          .front()
          .tokens;
  if (static_cast<int64_t>(written.size()) < options.generate)
    throw ConfigError(
        fmt::format("--generate: the model ended its text after {} tokens; at most {} would be "
                    "right",
                    written.size(), written.size()));
  given.insert(given.end(), written.begin(), written.end());
  return given;
}

/// Hands rows on to the writer.
class RowsToTrace final : public PrefillObserver {
 public:
  RowsToTrace(TraceWriter& writer, const TraceInfo& info, const std::function<void(int64_t)>& chunk_begins)
      : writer_(writer), info_(info), chunk_begins_(chunk_begins) {}
  void on_chunk(int64_t first_position) override { chunk_begins_(first_position); }
  void on_projected(int64_t layer, int64_t first_position, const Projected& rows) override {
    if (std::find(info_.layers.begin(), info_.layers.end(), layer) == info_.layers.end()) return;
    const int64_t row = info_.n_q_heads * info_.head_dim;
    const int64_t n = static_cast<int64_t>(rows.q.size()) / row;
    writer_.write_kv(layer, first_position, n, rows.k.data(), rows.v.data());
    // Queries of the prompt are not kept: no decode step asks them.
    const int64_t skipped = std::clamp<int64_t>(info_.prompt_tokens - first_position, 0, n);
    if (skipped < n)
      writer_.write_q(layer, first_position + skipped, n - skipped, rows.q.data() + skipped * row);
  }

 private:
  TraceWriter& writer_;
  const TraceInfo& info_;
  const std::function<void(int64_t)>& chunk_begins_;
};

}  // namespace

std::vector<int32_t> read_text(const std::filesystem::path& file, const ModelConfig& config) {
  return read_whole_text({file, file.string(), file.string()}, config);
}

void capture_trace(const Checkpoint& checkpoint, const std::string& folder_name, Backend& backend,
                   const std::vector<int32_t>& text, const std::filesystem::path& target,
                   const CaptureOptions& options,
                   const std::function<void(double done, double total)>& progress) {
  const ModelConfig& config = checkpoint.config();
  check(options, config, text.size());
  const auto n_given = options.tokens - options.generate;
  const std::vector<int32_t> given(text.begin(), text.begin() + n_given);

  TraceInfo info;
  info.model = options.label.empty() ? folder_name : options.label;
  info.source = "captured";
  info.rope = "applied";
  info.capture = described(checkpoint, options, given);
  info.n_tokens = options.tokens;
  info.prompt_tokens = options.prompt_tokens;
  info.n_q_heads = config.n_q_heads;
  info.n_kv_heads = config.n_kv_heads;
  info.head_dim = config.head_dim;
  info.n_model_layers = config.n_layers;
  info.softmax_scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  info.layers = options.layers;
  if (info.layers.empty())
    for (int64_t layer = 0; layer < config.n_layers; ++layer) info.layers.push_back(layer);
  std::sort(info.layers.begin(), info.layers.end());
  info.layers.erase(std::unique(info.layers.begin(), info.layers.end()), info.layers.end());
  TraceWriter writer(target, info, {options.dtype, options.prompt_tokens, 1});

  const Model model(checkpoint);
  const auto total = static_cast<double>(options.generate + options.tokens);
  double done = 0;
  const std::vector<int32_t> tokens = continued(
      model, backend, given, options, [&](int64_t n) { progress(done += static_cast<double>(n), total); });
  // Once more from the beginning: the rows of written tokens come from the same computation as the others.
  const std::function<void(int64_t)> chunk_begins = [&](int64_t position) {
    progress(static_cast<double>(options.generate + position), total);
  };
  RowsToTrace observer(writer, info, chunk_begins);
  prefill(model, backend, tokens, &observer);
  writer.write_tokens(tokens);
  writer.finish();
}

}  // namespace hindsight
