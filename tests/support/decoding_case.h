#pragma once
// Short texts that a small model decodes with some method, and how far two decodings are apart.

#include <cmath>
#include <limits>
#include <random>

#include "model/decoder.h"
#include "support/method_point.h"

namespace hindsight::test {

inline std::vector<int32_t> random_tokens(size_t n, uint64_t seed, int32_t vocabulary = 64) {
  std::mt19937_64 generator(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(generator() % static_cast<uint64_t>(vocabulary));
  return tokens;
}

inline DecodingMethod quest(double ratio, std::vector<std::pair<std::string, ParameterValue>> more = {},
                            int64_t dense_layers = 1, int64_t page_size = 4) {
  std::vector<std::pair<std::string, ParameterValue>> given{{"budget.ratio", ratio},
                                                            {"page_size", page_size},
                                                            {"k_min", int64_t{1}},
                                                            {"dense_layers", dense_layers}};
  given.insert(given.end(), more.begin(), more.end());
  return {"quest", method_point("quest", given).parameters};
}
inline DecodingMethod dense() { return {"dense", method_point("dense", {}).parameters}; }

/// One sequence: its prompt, and what is decoded after it.
struct Text {
  std::vector<int32_t> prompt, rest;
  int64_t room = 0;  ///< for tokens that somebody else decodes
};
inline std::vector<Text> texts() {
  return {{random_tokens(23, 1), random_tokens(24, 2)},
          {random_tokens(37, 3), random_tokens(20, 4)},
          {random_tokens(4, 5), random_tokens(30, 6)}};
}

/// logits[sequence][step], the prompt's first.
using Decoded = std::vector<std::vector<std::vector<float>>>;

/// `prepare` gets the decoder before its first step, `stepped` after each.
inline Decoded decode_prepared(
    const Model& model, Backend& backend, const DecodingMethod& method, const std::vector<Text>& all,
    const std::function<void(Decoder&)>& prepare,
    const std::function<void(Decoder&)>& stepped = [](Decoder&) {}) {
  std::vector<int64_t> capacities;
  for (const Text& text : all)
    capacities.push_back(static_cast<int64_t>(text.prompt.size() + text.rest.size()) + text.room);
  Decoder decoder(model, backend, method, capacities);
  prepare(decoder);
  Decoded decoded(all.size());
  for (size_t s = 0; s < all.size(); ++s) {
    const Prompt prompt = prefill(model, backend, all[s].prompt);
    decoder.start(static_cast<int64_t>(s), prompt);
    decoded[s].push_back(prompt.logits);
  }
  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  for (size_t step = 0;; ++step) {
    std::vector<NextToken> next;
    for (size_t s = 0; s < all.size(); ++s)
      if (step < all[s].rest.size()) next.push_back({static_cast<int64_t>(s), all[s].rest[step]});
    if (next.empty()) return decoded;
    const std::vector<float> logits = decoder.step(next);
    for (size_t i = 0; i < next.size(); ++i)
      decoded[static_cast<size_t>(next[i].sequence)].emplace_back(
          logits.begin() + static_cast<int64_t>(i * vocabulary),
          logits.begin() + static_cast<int64_t>((i + 1) * vocabulary));
    stepped(decoder);
  }
}

inline Decoded decode(const Model& model, Backend& backend, const DecodingMethod& method,
                      const std::vector<Text>& all) {
  return decode_prepared(model, backend, method, all, [](Decoder&) {});
}

/// Hidden rows on the host: those [rows, hidden] of the positions of a span.
using HostRowsObserver =
    std::function<void(int64_t layer, const WindowSpan& span, std::span<const float> rows)>;

/// Decodes; `see` gets the rows of all layers after each step.
inline Decoded decode_showing_rows(const Model& model, Backend& backend, const DecodingMethod& method,
                                   const std::vector<Text>& all, const HostRowsObserver& see) {
  const ModelConfig& config = model.config();
  const auto width = static_cast<size_t>(config.hidden);
  struct LayerCopy {
    Tensor<float, 2> rows;
    std::vector<WindowSpan> spans;
  };
  std::vector<LayerCopy> copies(static_cast<size_t>(config.n_layers));
  const auto prepare = [&](Decoder& decoder) {
    for (LayerCopy& copy : copies)
      copy.rows = backend.make_tensor<float, 2>({decoder.most_rows(), config.hidden});
    decoder.observe_hidden([&](int64_t layer, std::span<const WindowSpan> spans, const Tensor<float, 2>& x) {
      LayerCopy& copy = copies[static_cast<size_t>(layer)];
      backend.copy_rows(x, {}, copy.rows, {}, x.shape[0]);
      copy.spans.assign(spans.begin(), spans.end());
    });
  };
  return decode_prepared(model, backend, method, all, prepare, [&](Decoder&) {
    for (size_t layer = 0; layer < copies.size(); ++layer) {
      const std::vector<float> rows = backend.to_host(copies[layer].rows);
      size_t first = 0;
      for (const WindowSpan& span : copies[layer].spans) {
        const size_t size = static_cast<size_t>(span.rows) * width;
        see(static_cast<int64_t>(layer), span, std::span(rows).subspan(first, size));
        first += size;
      }
    }
  });
}

/// Infinite where shapes differ or something is not finite.
inline double largest_difference(const Decoded& a, const Decoded& b) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double largest = 0;
  if (a.size() != b.size()) return infinity;
  for (size_t s = 0; s < a.size(); ++s) {
    if (a[s].size() != b[s].size()) return infinity;
    for (size_t t = 0; t < a[s].size(); ++t)
      for (size_t i = 0; i < a[s][t].size(); ++i) {
        const double expected = b[s][t][i];
        const double difference = std::abs(a[s][t][i] - expected) / std::max(1.0, std::abs(expected));
        if (!std::isfinite(difference)) return infinity;
        largest = std::max(largest, difference);
      }
  }
  return largest;
}

}  // namespace hindsight::test
