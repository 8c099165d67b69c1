// What a token costs in the closed loop: a model of Llama 3.1 8B's shape decodes a batch on a GPU, dense,
// with Quest and with RetroAttention, in the type that it is served in (bfloat16). Weights and the cache are
// random: they cost what real ones do, but for one thing. Queries of successive random tokens share fewer
// pages than those of a text, so that a window is shown more than it would be: retro's times are on the safe
// side.
//
// Milliseconds per token: the median over steps, by events at their borders, while the host runs ahead.
// Every step is another position, its arguments sent anew; its layers run as a CUDA graph, as in evaluations.
// Memory: what each part holds, and what the device says is in use (what is freed stays with the process).
//
// bench_decode [--json FILE] [--layers N] [--steps N] [--only B:CONTEXT] [--method NAME]

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "backend/backend.h"
#include "bench/random_fill.h"
#include "methods/catalog.h"
#include "model/decoder.h"

namespace hindsight {
namespace {

constexpr int64_t page_size = 16, budget = 2048, chunk = 8192;
constexpr int warm_ups = 12;  // more than the widest window: its steps are full

struct Options {
  std::string json, method;
  int64_t layers = 32, steps = 40;
  std::optional<std::pair<int64_t, int64_t>> only;
};

ModelConfig llama_8b(int64_t layers) {
  ModelConfig config;
  config.family = "llama";
  config.n_layers = layers;
  config.hidden = 4096;
  config.ffn = 14336;
  config.vocabulary = 128256;
  config.n_q_heads = 32;
  config.n_kv_heads = 8;
  config.head_dim = 128;
  config.context = 131072;
  config.rope.theta = 500000;
  return config;
}

class RandomWeights final : public WeightSource {
 public:
  explicit RandomWeights(const ModelConfig& config) : config_(config) {}
  DType dtype(const std::string&) const override { return DType::bfloat16; }
  /// Of the norms alone: the family has no biases.
  std::vector<float> read(const std::string&) const override {
    return std::vector<float>(static_cast<size_t>(config_.hidden), 1.0f);
  }
  void load(Backend&, const std::string& name, DType, int64_t elements, void* target) const override {
    fill_random_bfloat16(target, elements, std::hash<std::string>{}(name), 0.02f);
  }

 private:
  const ModelConfig& config_;
};

struct Method {
  std::string name;
  DecodingMethod method;
};

std::vector<Method> methods() {
  const auto point = [](const std::string& selector, int64_t window) {
    DecodingMethod method{selector, {}};
    for (const ParameterDoc& doc : method_catalog().find_selector(selector)->parameters)
      if (doc.default_value) method.parameters.set(doc.path, *doc.default_value);
    method.parameters.set("page_size", page_size);
    if (selector == "dense") return method;
    method.parameters.set("dense_layers", int64_t{2});
    method.parameters.set("budget.tokens", budget);
    if (window > 1) method.parameters.set("retro.window", window);
    return method;
  };
  std::vector<Method> all{{"dense", point("dense", 1)}, {"quest", point("quest", 1)}};
  for (const int64_t window : {2, 4, 8})
    all.push_back({fmt::format("retro w={}", window), point("quest", window)});
  return all;
}

struct Measured {
  double median_ms = 0, p10_ms = 0, p90_ms = 0, host_ms = 0;
  Decoder::Memory memory;
  int64_t model_workspace = 0, in_use = 0;
};

class DecodeBench {
 public:
  DecodeBench(Backend& backend, const Options& options)
      : backend_(backend),
        options_(options),
        config_(llama_8b(options.layers)),
        model_(config_, RandomWeights(config_), backend, Precision::storage) {
    const std::array<int64_t, 3> rows{chunk, config_.n_kv_heads, config_.head_dim};
    k_ = backend.make_tensor<float, 3>(rows);
    v_ = backend.make_tensor<float, 3>(rows);
  }

  const Model& model() const { return model_; }

  /// Bytes of keys, values and summaries for a batch.
  int64_t cache_bytes(int64_t batch, int64_t context) const {
    return batch * context * config_.n_layers * config_.kv_size() * 2 * 2 * (page_size + 2) / page_size;
  }

  Measured measure(const DecodingMethod& method, int64_t batch, int64_t context) {
    const int64_t steps = warm_ups + options_.steps + 1;
    const std::vector<int64_t> capacities(static_cast<size_t>(batch), context);
    Decoder decoder(model_, backend_, method, capacities);
    for (int64_t sequence = 0; sequence < batch; ++sequence) {
      const int64_t n = context - steps;
      decoder.start(sequence, n, [&](int64_t layer, int64_t first) {
        fill_random(k_.data(), k_.size(), static_cast<uint64_t>(1 + 64 * layer + 7919 * first + sequence), 1);
        fill_random(v_.data(), v_.size(), static_cast<uint64_t>(2 + 64 * layer + 7919 * first + sequence), 1);
        const int64_t rows = std::min(chunk, n - first);
        return Decoder::KeysAndValues{backend_.rows_of(k_, 0, rows), backend_.rows_of(v_, 0, rows)};
      });
    }
    uint64_t random = 1;
    std::vector<NextToken> next(static_cast<size_t>(batch));
    const auto stopwatch = backend_.make_stopwatch(), host = make_cpu_backend()->make_stopwatch();
    for (int64_t step = 0; step < steps; ++step) {
      for (size_t s = 0; s < next.size(); ++s) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        next[s] = {static_cast<int64_t>(s),
                   static_cast<int32_t>((random >> 33) % static_cast<uint64_t>(config_.vocabulary))};
      }
      if (step >= warm_ups) {
        stopwatch->mark();
        host->mark();
      }
      decoder.step_on_backend(next);
    }
    std::vector<double> times = stopwatch->intervals_us(), on_host = host->intervals_us();
    std::sort(times.begin(), times.end());
    std::sort(on_host.begin(), on_host.end());
    const auto at = [](const std::vector<double>& sorted, double share) {
      return 1e-3 * sorted[static_cast<size_t>(share * static_cast<double>(sorted.size() - 1))];
    };
    Measured measured;
    measured.median_ms = at(times, 0.5);
    measured.p10_ms = at(times, 0.1);
    measured.p90_ms = at(times, 0.9);
    measured.host_ms = at(on_host, 0.5);
    measured.memory = decoder.memory();
    measured.model_workspace = model_.compute().workspace_bytes();
    measured.in_use = device_bytes_in_use();
    return measured;
  }

 private:
  Backend& backend_;
  Options options_;
  ModelConfig config_;
  Model model_;
  Tensor<float, 3> k_, v_;
};

Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(name + ": a value is missing");
    const std::string value = argv[i + 1];
    if (name == "--json")
      options.json = value;
    else if (name == "--method")
      options.method = value;
    else if (name == "--layers")
      options.layers = std::stoll(value);
    else if (name == "--steps")
      options.steps = std::stoll(value);
    else if (name == "--only" && value.find(':') != std::string::npos)
      options.only = {std::stoll(value), std::stoll(value.substr(value.find(':') + 1))};
    else
      throw std::invalid_argument(
          name + " " + value +
          ": --json FILE, --layers N, --steps N, --only BATCH:CONTEXT or --method NAME "
          "would be right");
  }
  return options;
}

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

nlohmann::json as_json(const std::string& method, int64_t batch, int64_t context, const Measured& m,
                       int64_t weights) {
  return {{"method", method},
          {"batch", batch},
          {"context", context},
          {"ms_per_token", m.median_ms},
          {"ms_p10", m.p10_ms},
          {"ms_p90", m.p90_ms},
          {"host_ms", m.host_ms},
          {"bytes",
           {{"weights", weights},
            {"cache", m.memory.attention.cache},
            {"summaries", m.memory.attention.summaries},
            {"outputs", m.memory.attention.outputs},
            {"attention_workspace", m.memory.attention.workspace},
            {"hidden", m.memory.hidden},
            {"decoder_workspace", m.memory.workspace},
            {"model_workspace", m.model_workspace},
            {"in_use", m.in_use}}}};
}

void run(const Options& options) {
  const auto backend = make_cuda_backend(0);
  DecodeBench bench(*backend, options);
  const int64_t weights = bench.model().compute().weight_bytes();
  fmt::print("{}; {} layers, weights {:.2f} GiB, budget {} tokens in pages of {}\n", backend->device_name(),
             options.layers, gib(weights), budget, page_size);
  fmt::print("{:>5} {:>7} {:<10} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "batch",
             "context", "method", "ms/token", "p10", "p90", "- quest", "host ms", "cache GiB", "summ. MiB",
             "outputs M", "work MiB", "used GiB");
  nlohmann::json results = nlohmann::json::array();
  const auto measure_all = [&](int64_t batch, int64_t context) {
    if (options.only && *options.only != std::pair(batch, context)) return;
    if (bench.cache_bytes(batch, context) + (int64_t{2} << 30) > backend->available_bytes()) {
      fmt::print("{:>5} {:>7} left out: its cache of {:.1f} GiB does not fit\n", batch, context,
                 gib(bench.cache_bytes(batch, context)));
      return;
    }
    double quest_ms = 0;
    for (const Method& method : methods()) {
      if (!options.method.empty() && options.method != method.name) continue;
      const Measured m = bench.measure(method.method, batch, context);
      if (method.name == "quest") quest_ms = m.median_ms;
      const double mib = 1.0 / (1 << 20);
      fmt::print(
          "{:>5} {:>7} {:<10} {:>9.3f} {:>9.3f} {:>9.3f} {:>8} {:>9.3f} {:>9.2f} {:>9.1f} {:>9.2f} {:>9.1f} "
          "{:>9.2f}\n",
          batch, context, method.name, m.median_ms, m.p10_ms, m.p90_ms,
          quest_ms > 0 ? fmt::format("{:+.3f}", m.median_ms - quest_ms) : "", m.host_ms,
          gib(m.memory.attention.cache), mib * static_cast<double>(m.memory.attention.summaries),
          mib * static_cast<double>(m.memory.attention.outputs + m.memory.hidden),
          mib * static_cast<double>(m.memory.attention.workspace + m.memory.workspace + m.model_workspace),
          gib(m.in_use));
      std::fflush(stdout);
      results.push_back(as_json(method.name, batch, context, m, weights));
    }
  };
  for (const int64_t context : {4096, 8192, 16384, 32768, 65536, 131072}) measure_all(1, context);
  for (const int64_t context : {4096, 8192, 16384, 32768, 65536}) measure_all(8, context);
  for (const int64_t context : {4096, 8192, 16384}) measure_all(32, context);
  if (!options.json.empty())
    std::ofstream(options.json) << nlohmann::json{
        {"device", backend->device_name()},
        {"driver", backend->driver()},
        {"layers", options.layers},
        {"steps", options.steps},
        {"results", results}}.dump(1);
}

}  // namespace
}  // namespace hindsight

int main(int argc, char** argv) {
  using namespace hindsight;
  if (cuda_device_count() == 0) {
    std::fprintf(stderr, "bench_decode: no CUDA device can be used here\n");
    return 4;
  }
  try {
    run(options_of(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_decode: %s\n", error.what());
    return 1;
  }
  return 0;
}
