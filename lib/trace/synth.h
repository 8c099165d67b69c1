#pragma once
// Synthetic traces whose attention looks like a model's: sinks, locality, topics that drift, heavy tails. For
// tests, benchmarks and sizes of which no capture exists; results on them say nothing about models.

#include <filesystem>
#include <functional>

#include "trace/trace_writer.h"

namespace hindsight {

struct SynthOptions {
  int64_t n_tokens = 4096, prompt_tokens = 3072;
  int64_t n_layers = 4, n_q_heads = 8, n_kv_heads = 2, head_dim = 64;
  DType dtype = DType::bfloat16;
  uint64_t seed = 0;
  /// Parts of the logit of query t and key i, in units of the logit (natural log):
  int64_t sinks = 4;          ///< first tokens that every query attends to
  double sink_strength = 11;  ///< added for them
  double locality = 64;       ///< tokens: exp(-(t-i)^2 / 2 locality^2) times
  double local_strength = 4;  ///< this is added
  int64_t topics = 32;        ///< a token has one; the current one changes
  double topic_length = 48;   ///< after that many tokens on average, to one visited before or a new one
  double topic_strength = 5;  ///< added where topics agree (and random overlaps of others)
  double noise = 1;           ///< standard deviation of the rest, which is
  double tail = 4;            ///< Student t with that many degrees of freedom: few keys get much
};

/// Writes the trace; `progress(done, total)` is called after pieces. The same options give the same bytes, on
/// any machine. Throws ConfigError where an option is out of range, EnvironmentError where the file cannot be
/// written.
void synthesize(const std::filesystem::path& file, const SynthOptions& options,
                const std::function<void(double, double)>& progress);

}  // namespace hindsight
