#include "trace/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/counter_random.h"
#include "core/error.h"

namespace hindsight {
namespace {

/// Independent streams of numbers, each a function of its seed alone.
class Draws {
 public:
  Draws(uint64_t seed, int64_t layer, int64_t stream) : seed_(seed), layer_(layer), stream_(stream) {}
  double uniform() {
    return (static_cast<double>(counter_uniform(seed_, layer_, next_++, stream_, 0)) + 0x1.0p-25);
  }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t seed_;
  int64_t layer_, stream_, next_ = 0;
};

void check(const SynthOptions& o) {
  const auto in_range = [](const char* name, double value, double least, double most) {
    if (!(value >= least && value <= most))
      throw ConfigError(
          fmt::format("--{}: {} is out of range; {} to {} would be right", name, value, least, most));
  };
  in_range("tokens", static_cast<double>(o.n_tokens), 2, 1 << 24);
  in_range("prompt-tokens", static_cast<double>(o.prompt_tokens), 1, static_cast<double>(o.n_tokens - 1));
  in_range("layers", static_cast<double>(o.n_layers), 1, 1024);
  in_range("kv-heads", static_cast<double>(o.n_kv_heads), 1, 1024);
  in_range("q-heads", static_cast<double>(o.n_q_heads), 1, 4096);
  if (o.n_q_heads % o.n_kv_heads != 0)
    throw ConfigError(
        fmt::format("--q-heads: {} is no multiple of --kv-heads {}", o.n_q_heads, o.n_kv_heads));
  in_range("head-dim", static_cast<double>(o.head_dim), 8, 1024);
  in_range("sinks", static_cast<double>(o.sinks), 0, static_cast<double>(o.n_tokens));
  in_range("locality", o.locality, 1, 1e9);
  in_range("topics", static_cast<double>(o.topics), 1, 1 << 20);
  in_range("topic-length", o.topic_length, 1, 1e9);
  for (const auto& [name, value] : {std::pair{"sink-strength", o.sink_strength},
                                    {"local-strength", o.local_strength},
                                    {"topic-strength", o.topic_strength},
                                    {"noise", o.noise}})
    in_range(name, value, 0, 100);
  in_range("tail", o.tail, 1, 1e6);
}

/// The topic of every token: it lasts topic_length tokens on average, then another takes over, an earlier one
/// half of the time.
std::vector<int64_t> draw_topics(const SynthOptions& o) {
  Draws draws(o.seed, -1, 0);
  std::vector<int64_t> topics, visited;
  int64_t current = 0;
  for (int64_t token = 0; token < o.n_tokens; ++token) {
    if (token == 0 || draws.uniform() < 1 / o.topic_length) {
      const double choice = draws.uniform();
      const auto pick = [&](int64_t n) {
        return std::min(n - 1, static_cast<int64_t>(draws.uniform() * static_cast<double>(n)));
      };
      if (choice < 0.5 && !visited.empty())
        current = visited[pick(static_cast<int64_t>(visited.size()))];
      else
        current = pick(o.topics);
      visited.push_back(current);
    }
    topics.push_back(current);
  }
  return topics;
}

/// Keys and queries of one KV head. The head's dimensions are split: Fourier features of the position (whose
/// products depend on the distance), one dimension for sinks, and the rest for topics and noise.
class HeadModel {
 public:
  HeadModel(const SynthOptions& o, int64_t layer, int64_t kv_head)
      : o_(o),
        layer_(layer),
        kv_head_(kv_head),
        n_frequencies_(std::max<int64_t>(1, o.head_dim / 8)),
        first_free_(2 * n_frequencies_ + 1),
        n_free_(o.head_dim - first_free_) {
    Draws draws(o.seed, layer, kv_head);
    // Normal frequencies make the mean of cos(w * distance) a Gaussian of the distance (random Fourier
    // features).
    for (int64_t f = 0; f < n_frequencies_; ++f) frequencies_.push_back(draws.normal() / o.locality);
    topic_vectors_.resize(static_cast<size_t>(o.topics * n_free_));
    for (double& x : topic_vectors_) x = draws.normal() / std::sqrt(static_cast<double>(n_free_));
  }

  /// A key has heavy tails: its noise is as long as a Student t is wide.
  void key(int64_t token, int64_t topic, float* out) const {
    Draws draws(o_.seed, layer_, 1000 + 2 * (token * o_.n_kv_heads + kv_head_));
    positional(token, 1, out);
    out[2 * n_frequencies_] = token < o_.sinks ? 1.0f : 0.0f;
    double chi_squared = 0;
    const int64_t degrees = std::min<int64_t>(64, static_cast<int64_t>(std::lround(o_.tail)));
    for (int64_t i = 0; i < degrees; ++i) {
      const double x = draws.normal();
      chi_squared += x * x;
    }
    const double width = o_.noise * std::sqrt(static_cast<double>(degrees) / chi_squared);
    for (int64_t c = 0; c < n_free_; ++c)
      out[first_free_ + c] =
          static_cast<float>(topic_vectors_[topic * n_free_ + c] +
                             width * draws.normal() / std::sqrt(static_cast<double>(n_free_)));
  }

  void query(int64_t token, int64_t topic, int64_t q_head, float* out) const {
    Draws draws(o_.seed, layer_, 1001 + 2 * (token * o_.n_q_heads + q_head));
    // The softmax scale 1/sqrt(d) is undone, so that strengths are in units of the logit.
    const double unit = std::sqrt(static_cast<double>(o_.head_dim));
    positional(token, o_.local_strength * unit / static_cast<double>(n_frequencies_), out);
    out[2 * n_frequencies_] = static_cast<float>(o_.sink_strength * unit);
    for (int64_t c = 0; c < n_free_; ++c)
      out[first_free_ + c] = static_cast<float>(
          unit * (o_.topic_strength * topic_vectors_[topic * n_free_ + c] + 0.5 * draws.normal()));
  }

 private:
  /// The products of two of these, summed, are strength * the mean of cos(w * distance) when one side carries
  /// `strength` / n_frequencies.
  void positional(int64_t token, double amplitude, float* out) const {
    for (int64_t f = 0; f < n_frequencies_; ++f) {
      const double phase = frequencies_[f] * static_cast<double>(token);
      out[2 * f] = static_cast<float>(amplitude * std::cos(phase));
      out[2 * f + 1] = static_cast<float>(amplitude * std::sin(phase));
    }
  }

  const SynthOptions& o_;
  int64_t layer_, kv_head_, n_frequencies_, first_free_, n_free_;
  std::vector<double> frequencies_, topic_vectors_;
};

}  // namespace

void synthesize(const std::filesystem::path& file, const SynthOptions& options,
                const std::function<void(double, double)>& progress) {
  check(options);
  TraceInfo info;
  info.model = "synthetic";
  info.source = "synthetic";
  info.rope = "none";
  info.capture = fmt::format(
      "hindsight trace synth: seed {}, sinks {} (strength {}), locality {} (strength {}), topics {} (length "
      "{}, strength {}), "
      "noise {}, tail {}",
      options.seed, options.sinks, options.sink_strength, options.locality, options.local_strength,
      options.topics, options.topic_length, options.topic_strength, options.noise, options.tail);
  info.n_tokens = options.n_tokens;
  info.prompt_tokens = options.prompt_tokens;
  info.n_q_heads = options.n_q_heads;
  info.n_kv_heads = options.n_kv_heads;
  info.head_dim = options.head_dim;
  info.n_model_layers = options.n_layers;
  info.softmax_scale = 1 / std::sqrt(static_cast<double>(options.head_dim));
  for (int64_t layer = 0; layer < options.n_layers; ++layer) info.layers.push_back(layer);

  TraceWriter writer(file, info, {options.dtype, options.prompt_tokens, 0});
  const std::vector<int64_t> topics = draw_topics(options);
  constexpr int64_t piece = 1024;
  const int64_t d = options.head_dim, group = options.n_q_heads / options.n_kv_heads;
  const auto total = static_cast<double>(options.n_layers * options.n_tokens);
  for (int64_t layer = 0; layer < options.n_layers; ++layer) {
    std::vector<HeadModel> heads;
    for (int64_t head = 0; head < options.n_kv_heads; ++head) heads.emplace_back(options, layer, head);
    for (int64_t first = 0; first < options.n_tokens; first += piece) {
      const int64_t n = std::min(piece, options.n_tokens - first);
      std::vector<float> k(static_cast<size_t>(n * options.n_kv_heads * d)), v(k.size());
      std::vector<float> q(static_cast<size_t>(n * options.n_q_heads * d));
#pragma omp parallel for schedule(static)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t token = first + i;
        for (int64_t head = 0; head < options.n_kv_heads; ++head) {
          heads[head].key(token, topics[token], &k[(i * options.n_kv_heads + head) * d]);
          Draws draws(options.seed, layer + options.n_layers, token * options.n_kv_heads + head);
          for (int64_t c = 0; c < d; ++c)
            v[(i * options.n_kv_heads + head) * d + c] = static_cast<float>(draws.normal());
        }
        if (token < options.prompt_tokens) continue;
        for (int64_t head = 0; head < options.n_q_heads; ++head)
          heads[head / group].query(token, topics[token], head, &q[(i * options.n_q_heads + head) * d]);
      }
      writer.write_kv(layer, first, n, k.data(), v.data());
      const int64_t first_q = std::max(first, options.prompt_tokens);
      if (first + n > first_q)
        writer.write_q(layer, first_q, first + n - first_q, &q[(first_q - first) * options.n_q_heads * d]);
      progress(static_cast<double>(layer * options.n_tokens + first + n), total);
    }
  }
  writer.finish();
}

}  // namespace hindsight
