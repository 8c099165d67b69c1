// A fidelity replay as `hindsight run` does it: dense reference, true mass of pages, Quest and retro over it,
// with all metrics, on a trace that is made here. Prints milliseconds per 1024 steps of one layer, the whole
// by the host's clock, and in a second pass with a wait after each primitive where the time goes.
//
// --dump FOLDER leaves the layer's q [n, Hq, d], k and v [T, Hkv, d] as raw bfloat16, so that a simulation
// can replay the same (analysis: bench_simulation_gpu).

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/drifting_layer.h"
#include "core/error.h"
#include "methods/catalog.h"
#include "replay/fidelity.h"

namespace hindsight {
namespace {

constexpr int64_t page_size = 16, head_dim = 128, n_q_heads = 32, n_kv_heads = 8;

struct Options {
  std::string device = "cuda:0";
  std::vector<int64_t> contexts{8192, 32768};
  int64_t steps = 1024, layers = 4, window = 4, budget = 2048, repeats = 3;
  std::string json, dump;
};

void dump(const LayerTensors& tensors, const std::string& folder) {
  const auto write = [&](const char* name, const std::vector<std::byte>& values) {
    std::ofstream file(folder + "/" + name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size()));
    if (!file) throw EnvironmentError(folder + "/" + name + ": cannot be written");
  };
  write("q.bin", tensors.q);
  write("k.bin", tensors.k);
  write("v.bin", tensors.v);
}

/// A backend that waits after every primitive and adds up the time of each. Dense attention and page mass are
/// two of them here, also where the backend would do both at once.
class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(Backend& of) : of_(of), stopwatch_(of.make_stopwatch()) {}
  const std::map<std::string, double>& milliseconds() const { return milliseconds_; }

  std::string device_name() const override { return of_.device_name(); }
  std::string driver() const override { return of_.driver(); }
  int64_t available_bytes() const override { return of_.available_bytes(); }
  std::string unsupported(DType dtype, int64_t d, int64_t group, int64_t page,
                          int64_t window) const override {
    return of_.unsupported(dtype, d, group, page, window);
  }
  std::shared_ptr<Storage> allocate(int64_t bytes) override { return of_.allocate(bytes); }
  void upload(void* to, const void* from, int64_t bytes) override { of_.upload(to, from, bytes); }
  void download(void* to, const void* from, int64_t bytes) override {
    time("download", [&] { of_.download(to, from, bytes); });
  }
  void copy(void* to, const void* from, int64_t bytes) override {
    time("copy", [&] { of_.copy(to, from, bytes); });
  }
  std::unique_ptr<Stopwatch> make_stopwatch() override { return of_.make_stopwatch(); }
  int64_t real_bytes() const override { return of_.real_bytes(); }
  std::unique_ptr<Layer> load_layer(std::span<const LayerTensors> batch) override {
    return of_.load_layer(batch);
  }
  std::unique_ptr<KvCache> make_cache(const Layer& layer, int64_t page) override {
    return of_.make_cache(layer, page);
  }
  std::unique_ptr<Layer> make_growing_layer(const LayerShape& shape,
                                            std::span<const int64_t> capacities) override {
    return of_.make_growing_layer(shape, capacities);
  }
  void set_queries(Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> q) override {
    of_.set_queries(layer, ranges, q);
  }
  void write(KvCache& cache, const Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> k,
             Tensor<float, 3> v, Summaries summaries) override {
    of_.write(cache, layer, ranges, k, v, summaries);
  }
  void copy_rows(Tensor<float, 2> from, Tensor<int32_t, 1> from_rows, Tensor<float, 2> to,
                 Tensor<int32_t, 1> to_rows, int64_t n) override {
    of_.copy_rows(from, from_rows, to, to_rows, n);
  }
  void compare_rows(Tensor<float, 2> x, std::span<const Tensor<float, 2>> references,
                    Tensor<double, 1> errors) override {
    of_.compare_rows(x, references, errors);
  }
  void append(KvCache& cache, const Layer& layer, std::span<const TokenRange> ranges) override {
    time("append", [&] { of_.append(cache, layer, ranges); });
  }
  void truncate(KvCache& cache, const Layer& layer, std::span<const int64_t> to) override {
    of_.truncate(cache, layer, to);
  }
  void dense(const Layer& layer, const KvCache& cache, const Block& block, Tensor<float, 3> out,
             Tensor<float, 2> lse) override {
    time("dense", [&] { of_.dense(layer, cache, block, out, lse); });
  }
  void score_pages(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                   bool round_to_storage, Tensor<float, 3> scores) override {
    time("score_pages", [&] { of_.score_pages(layer, cache, block, policy, round_to_storage, scores); });
  }
  void page_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                 Tensor<float, 2> lse, Tensor<float, 3> mass) override {
    time("page_mass", [&] { of_.page_mass(layer, cache, block, unit, lse, mass); });
  }
  void random_scores(const Layer& layer, const KvCache& cache, const Block& block, uint64_t seed,
                     Tensor<float, 3> scores) override {
    time("random_scores", [&] { of_.random_scores(layer, cache, block, seed, scores); });
  }
  void select_top_k(const KvCache& cache, const Block& block, Tensor<float, 3> scores,
                    std::span<const int32_t> k, Newest newest, PageLists lists) override {
    time("select_top_k", [&] { of_.select_top_k(cache, block, scores, k, newest, lists); });
  }
  void note_loads(const Block& block, const PageLists& lists, Tensor<int32_t, 3> last_loaded,
                  Tensor<int32_t, 3> previous) override {
    time("note_loads", [&] { of_.note_loads(block, lists, last_loaded, previous); });
  }
  void attend(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
              const PageLists& lists, Tensor<int32_t, 3> previous, int64_t window,
              Partials partials) override {
    time("attend", [&] { of_.attend(layer, cache, block, policy, lists, previous, window, partials); });
  }
  void merge(const Block& block, int64_t window, const Partials& partials, Outputs outputs) override {
    time("merge", [&] { of_.merge(block, window, partials, outputs); });
  }
  void compare(const Outputs& outputs, int64_t first_row, Tensor<float, 3> reference_out,
               Tensor<float, 2> reference_lse, Tensor<float, 3> errors) override {
    time("compare", [&] { of_.compare(outputs, first_row, reference_out, reference_lse, errors); });
  }
  void count_selection(const KvCache& cache, const Block& block, const SelectionSets& sets, int64_t window,
                       Tensor<int32_t, 3> counts) override {
    time("count_selection", [&] { of_.count_selection(cache, block, sets, window, counts); });
  }

 private:
  template <class F>
  void time(const char* what, F&& f) {
    stopwatch_->mark();
    f();
    stopwatch_->mark();
    milliseconds_[what] += 1e-3 * stopwatch_->intervals_us().at(0);
  }
  Backend& of_;
  std::unique_ptr<Stopwatch> stopwatch_;
  std::map<std::string, double> milliseconds_;
};

ReplayPoint point(const Options& options, int64_t window) {
  ReplayPoint result;
  result.method.name = window > 1 ? "retro" : "quest";
  result.method.selector = "quest";
  for (const ParameterDoc& doc : method_catalog().find_selector("quest")->parameters)
    if (doc.default_value) result.method.parameters.set(doc.path, *doc.default_value);
  result.method.parameters.set("page_size", page_size);
  result.method.parameters.set("budget.tokens", options.budget);
  if (window > 1) result.method.parameters.set("retro.window", window);
  for (int64_t layer = 0; layer < options.layers; ++layer) result.layers.push_back(layer);
  return result;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double column(const Measurements& measured, const std::string& name) {
  for (const auto& [column, value] : measured.summary)
    if (column == name) return value;
  throw std::out_of_range("no column " + name);
}

/// Replays both methods in one pass, as `hindsight run` does, from nothing but resident layers; returns
/// seconds.
double replay(Backend& backend, const ReplayTrace& trace, const std::shared_ptr<const Layer>& layer,
              const Options& options, nlohmann::json& metrics) {
  const auto begin = std::chrono::steady_clock::now();
  Residency residency(backend, trace, backend.available_bytes() / 4 * 3, [&](int64_t) { return layer; });
  const std::vector<ReplayPoint> pass{point(options, 1), point(options, options.window)};
  const std::vector<Measurements> measured = replay_fidelity(backend, residency, trace, pass, [] {});
  for (size_t i = 0; i < pass.size(); ++i)
    for (const char* name : {"rel_l2_first_mean", "rel_l2_final_mean", "mass_recall_final_mean",
                             "effective_exposure_mean", "page_overlap_mean", "oracle_page_recall_mean"})
      metrics[pass[i].method.name][name] = column(measured[i], name);
  return seconds_since(begin);
}

nlohmann::json measure(Backend& backend, const Options& options, int64_t context) {
  const LayerTensors tensors = drifting_layer({.n_tokens = context,
                                               .n_queries = options.steps,
                                               .n_q_heads = n_q_heads,
                                               .n_kv_heads = n_kv_heads,
                                               .head_dim = head_dim,
                                               .query_deviation = 3});
  if (!options.dump.empty()) dump(tensors, options.dump);
  const auto before_upload = std::chrono::steady_clock::now();
  const std::shared_ptr<const Layer> layer = backend.load_layer({&tensors, 1});
  const double upload_ms = 1e3 * seconds_since(before_upload);

  ReplayTrace trace;
  trace.info.n_tokens = context;
  trace.info.prompt_tokens = context - options.steps;
  trace.info.n_q_heads = n_q_heads;
  trace.info.n_kv_heads = n_kv_heads;
  trace.info.head_dim = head_dim;
  trace.info.softmax_scale = tensors.softmax_scale;
  for (int64_t index = 0; index < options.layers; ++index) {
    trace.layers.push_back(index);
    trace.dtypes.push_back(DType::bfloat16);
    trace.q_starts.push_back(tensors.q_start);
  }
  trace.info.layers = trace.layers;
  trace.first_position = trace.info.prompt_tokens;
  trace.n_steps = options.steps;

  nlohmann::json row{{"context", context}, {"steps", options.steps}, {"layers", options.layers}};
  const double units = static_cast<double>(options.layers * options.steps) / 1024;
  std::vector<double> times;
  replay(backend, trace, layer, options, row["metrics"]);  // to warm up
  for (int64_t repeat = 0; repeat < options.repeats; ++repeat)
    times.push_back(1e3 * replay(backend, trace, layer, options, row["metrics"]) / units);
  std::sort(times.begin(), times.end());
  row["ms"] = times[times.size() / 2];
  row["ms_all"] = times;
  row["upload_ms_of_a_layer"] = upload_ms;

  TimedBackend timed(backend);
  nlohmann::json same;
  const double timed_ms = 1e3 * replay(timed, trace, layer, options, same) / units;
  double primitives = 0;
  for (const auto& [name, ms] : timed.milliseconds()) {
    row["primitives_ms"][name] = ms / units;
    primitives += ms / units;
  }
  row["primitives_ms"]["rest of the host"] = timed_ms - primitives;
  return row;
}

void print(const nlohmann::json& row) {
  std::printf("%lld tokens, %lld steps, %lld layers: %.2f ms per 1024 steps of a layer\n",
              row["context"].get<long long>(), row["steps"].get<long long>(), row["layers"].get<long long>(),
              row["ms"].get<double>());
  for (const auto& [name, ms] : row["primitives_ms"].items())
    std::printf("  %-18s %8.3f\n", name.c_str(), ms.get<double>());
  for (const auto& [method, values] : row["metrics"].items())
    for (const auto& [name, value] : values.items())
      std::printf("  %s %s %.6f\n", method.c_str(), name.c_str(), value.get<double>());
  std::fflush(stdout);
}

std::unique_ptr<Backend> backend_of(const std::string& device) {
  if (device == "cpu") return make_cpu_backend();
  return make_cuda_backend(device.size() > 5 ? std::stoi(device.substr(5)) : 0);
}

}  // namespace
}  // namespace hindsight

int main(int argc, char** argv) {
  using namespace hindsight;
  CLI::App app{"Times fidelity replays of a made-up trace."};
  Options options;
  app.add_option("--device", options.device, "cpu, cuda or cuda:N")->check([](const std::string& name) {
    return name == "cpu" || name.starts_with("cuda") ? "" : "neither cpu nor cuda[:N]";
  });
  app.add_option("--contexts", options.contexts, "tokens of the trace");
  app.add_option("--steps", options.steps, "decode steps at its end")->check(CLI::PositiveNumber);
  app.add_option("--layers", options.layers, "times that the layer is replayed")->check(CLI::PositiveNumber);
  app.add_option("--window", options.window, "of retro")->check(CLI::Range(2, 16));
  app.add_option("--budget", options.budget, "tokens")->check(CLI::PositiveNumber);
  app.add_option("--repeats", options.repeats)->check(CLI::PositiveNumber);
  app.add_option("--json", options.json, "file to write");
  app.add_option("--dump", options.dump, "folder for the layer's arrays, of the last context");
  CLI11_PARSE(app, argc, argv);
  try {
    const auto backend = backend_of(options.device);
    nlohmann::json result{{"device", backend->device_name()}, {"driver", backend->driver()}};
    for (const int64_t context : options.contexts) {
      if (options.steps >= context) throw ConfigError("--steps must be less than every context");
      result["rows"].push_back(measure(*backend, options, context));
      print(result["rows"].back());
    }
    if (!options.json.empty()) std::ofstream(options.json) << result.dump(1) << '\n';
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_fidelity: %s\n", error.what());
    return 1;
  }
}
