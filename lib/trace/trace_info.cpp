// What makes a description of a trace valid, whoever wrote it.

#include <fmt/format.h>

#include <cmath>

#include "trace/trace_writer.h"

namespace hindsight {

std::vector<std::string> problems_of(const TraceInfo& info) {
  std::vector<std::string> problems;
  const auto at_least_one = [&](const char* name, int64_t value, int64_t most) {
    if (value < 1 || value > most)
      problems.push_back(
          fmt::format("attribute {}: {} is out of range; 1 to {} would be right", name, value, most));
    return value >= 1 && value <= most;
  };
  constexpr int64_t most_tokens = (1LL << 31) - 1, most_heads = 1 << 16, most_elements = 1LL << 47;
  const bool tokens = at_least_one("n_tokens", info.n_tokens, most_tokens);
  const bool q_heads = at_least_one("n_q_heads", info.n_q_heads, most_heads);
  const bool kv_heads = at_least_one("n_kv_heads", info.n_kv_heads, most_heads);
  const bool dim = at_least_one("head_dim", info.head_dim, most_heads);
  at_least_one("n_model_layers", info.n_model_layers, most_heads);
  if (tokens && (info.prompt_tokens < 1 || info.prompt_tokens >= info.n_tokens))
    problems.push_back(
        fmt::format("attribute prompt_tokens: {} is out of range; 1 to n_tokens - 1 = {} would be right",
                    info.prompt_tokens, info.n_tokens - 1));
  if (q_heads && kv_heads && info.n_q_heads % info.n_kv_heads != 0)
    problems.push_back(fmt::format("attribute n_q_heads: {} is no multiple of n_kv_heads = {}",
                                   info.n_q_heads, info.n_kv_heads));
  if (tokens && q_heads && dim && info.n_tokens * info.n_q_heads > most_elements / info.head_dim)
    problems.push_back(fmt::format(
        "attributes n_tokens, n_q_heads, head_dim: {} x {} x {} elements are more than any memory holds",
        info.n_tokens, info.n_q_heads, info.head_dim));
  if (!std::isfinite(info.softmax_scale) || info.softmax_scale <= 0)
    problems.push_back(
        fmt::format("attribute softmax_scale: {} is not a positive number; 1/sqrt(head_dim) is usual",
                    info.softmax_scale));
  if (info.source != "captured" && info.source != "converted" && info.source != "synthetic")
    problems.push_back(fmt::format(
        "attribute source: '{}' is not known; captured, converted or synthetic would be right", info.source));
  if (info.rope != "applied" && info.rope != "none")
    problems.push_back(
        fmt::format("attribute rope: '{}' is not known; applied or none would be right", info.rope));
  return problems;
}

}  // namespace hindsight
