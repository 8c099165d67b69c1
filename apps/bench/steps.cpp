// Whole decode steps on a GPU, as a serving engine runs them: one step of every sequence of a batch, recorded
// as a graph that goes through many layers, so that what a step reads has left the L2 cache (cold) or stays
// in it (hot). Times are per layer: the median of 21 replays, by events within the graph.
//
// Names: <what>/<heads>/b<batch>/<context>/w<window>/<cold|hot>. Counters: MB that the step must move, GB/s,
// and `of_read`, the share of what reading that many bytes takes in the same run.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <new>

#include "backend/backend.h"
#include "bench/drifting_layer.h"
#include "bench/read_ceiling.h"
#include "core/error.h"

namespace hindsight {
namespace {

constexpr int64_t page_size = 16, head_dim = 128, n_q_heads = 32;
constexpr int64_t longest_window = 16;
constexpr int replays = 21;

struct Workload {
  int64_t n_kv_heads = 8, batch = 1, context = 32768, window = 1, budget = 2048;
  bool hot = false;
  auto operator<=>(const Workload&) const = default;
  std::string name() const {
    return std::to_string(n_q_heads) + ":" + std::to_string(n_kv_heads) + "/b" + std::to_string(batch) + "/" +
           std::to_string(context) + "/w" + std::to_string(window) + "/k" + std::to_string(budget) +
           (hot ? "/hot" : "/cold");
  }
  int64_t key_bytes() const { return n_kv_heads * head_dim * 2; }  ///< of one token
  int64_t page_list_bytes() const { return batch * std::min(budget, context) * 2 * key_bytes(); }
  int64_t quest_bytes() const { return page_list_bytes() + batch * (context / page_size) * 2 * key_bytes(); }
  int64_t dense_bytes() const { return batch * context * 2 * key_bytes(); }
};

/// One layer, all steps of the window but the last behind it.
class LayerSteps {
 public:
  LayerSteps(Backend& backend, const Workload& workload, const std::vector<LayerTensors>& batch)
      : backend_(backend),
        workload_(workload),
        layer_(backend.load_layer(batch)),
        cache_(backend.make_cache(*layer_, page_size)) {
    const int64_t n = workload.batch, units = workload.n_kv_heads, w = workload.window;
    const int64_t capacity = std::max<int64_t>(1, std::min(workload.budget, workload.context) / page_size);
    k_.assign(static_cast<size_t>(n), static_cast<int32_t>(capacity));
    lists_ = {backend.make_tensor<int32_t, 3>({n, units, capacity}),
              backend.make_tensor<int32_t, 2>({n, units})};
    previous_ = backend.make_tensor<int32_t, 3>({n, units, capacity});
    scores_ = backend.make_tensor<float, 3>({n, units, cache_->max_pages});
    last_loaded_ = backend.make_tensor<int32_t, 3>({n, units, cache_->max_pages});
    saved_loads_ = backend.make_tensor<int32_t, 3>(last_loaded_.shape);
    partials_ = {backend.make_tensor<float, 4>({n, w, n_q_heads, head_dim}),
                 backend.make_tensor<float, 3>({n, w, n_q_heads})};
    outputs_ = {backend.make_tensor<float, 3>({n * w, n_q_heads, head_dim}),
                backend.make_tensor<float, 2>({n * w, n_q_heads})};
    dense_out_ = backend.make_tensor<float, 3>({n, n_q_heads, head_dim});
    dense_lse_ = backend.make_tensor<float, 2>({n, n_q_heads});
    const std::vector<int32_t> never(static_cast<size_t>(last_loaded_.size()), -1);
    backend.upload(last_loaded_.data(), never.data(), load_bytes());
    std::vector<TokenRange> prompt;
    for (int64_t s = 0; s < n; ++s) prompt.push_back({s, 0, workload.context - w});
    backend.append(*cache_, *layer_, prompt);
    for (int64_t step = 0; step < w; ++step) {
      block_ = backend.make_block(steps(step));
      if (step == w - 1) backend.copy(saved_loads_.data(), last_loaded_.data(), load_bytes());
      by_primitives();
    }
  }

  /// As before the last step.
  void rewind() {
    backend_.truncate(*cache_, *layer_,
                      std::vector<int64_t>(static_cast<size_t>(workload_.batch), workload_.context - 1));
    backend_.copy(last_loaded_.data(), saved_loads_.data(), load_bytes());
  }
  bool in_one_launch() {
    return backend_.decode_step(*cache_, *layer_, block_,
                                {.k = k_,
                                 .window = workload_.window,
                                 .lists = lists_,
                                 .last_loaded = last_loaded_,
                                 .outputs = outputs_});
  }
  void by_primitives() {
    append();
    backend_.score_pages(*layer_, *cache_, block_, {}, false, scores_);
    backend_.select_top_k(*cache_, block_, scores_, k_, Newest::forced, lists_);
    if (workload_.window > 1) backend_.note_loads(block_, lists_, last_loaded_, previous_);
    attend();
    backend_.merge(block_, workload_.window, partials_, outputs_);
  }
  void attend() {
    backend_.attend(*layer_, *cache_, block_, {}, lists_, previous_, workload_.window, partials_);
  }
  void dense() { backend_.dense(*layer_, *cache_, block_, dense_out_, dense_lse_); }
  void append() {
    std::vector<TokenRange> next;
    for (const BlockStep& step : block_.steps)
      next.push_back({step.sequence, step.position, step.position + 1});
    backend_.append(*cache_, *layer_, next);
  }

 private:
  int64_t load_bytes() const { return last_loaded_.size() * static_cast<int64_t>(sizeof(int32_t)); }
  std::vector<BlockStep> steps(int64_t step) const {
    std::vector<BlockStep> rows;
    for (int64_t s = 0; s < workload_.batch; ++s)
      rows.push_back({static_cast<int32_t>(s),
                      static_cast<int32_t>(workload_.context - workload_.window + step),
                      static_cast<int32_t>(s * workload_.window + step), static_cast<int32_t>(step + 1)});
    return rows;
  }

  Backend& backend_;
  Workload workload_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> k_;
  Block block_;
  PageLists lists_;
  Tensor<int32_t, 3> previous_, last_loaded_, saved_loads_;
  Tensor<float, 3> scores_, dense_out_;
  Tensor<float, 2> dense_lse_;
  Partials partials_;
  Outputs outputs_;
};

struct What {
  const char* name;
  bool (*run)(LayerSteps&);  ///< false where it cannot be done
  int64_t (Workload::*bytes)() const;
  bool appends;     ///< the step's token, itself
  bool has_window;  ///< is worth timing with past queries
};
const What whats[] = {
    {"step", [](LayerSteps& layer) { return layer.in_one_launch(); }, &Workload::quest_bytes, true, true},
    {"step_by_primitives", [](LayerSteps& layer) { return layer.by_primitives(), true; },
     &Workload::quest_bytes, true, false},
    {"attend", [](LayerSteps& layer) { return layer.attend(), true; }, &Workload::page_list_bytes, false,
     false},
    {"dense", [](LayerSteps& layer) { return layer.dense(), true; }, &Workload::dense_bytes, false, false},
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

using Layers = std::vector<std::unique_ptr<LayerSteps>>;

/// Those of the last context asked for: workloads in a row differ in their windows only.
const LayerTensors& tensors_for(const Workload& workload) {
  static std::pair<int64_t, int64_t> of;
  static LayerTensors tensors;
  if (const std::pair wanted{workload.context, workload.n_kv_heads}; of != wanted) {
    tensors = drifting_layer({.n_tokens = workload.context,
                              .n_queries = longest_window,
                              .n_q_heads = n_q_heads,
                              .n_kv_heads = workload.n_kv_heads,
                              .head_dim = head_dim});
    of = wanted;
  }
  return tensors;
}

/// Layers of a workload; one workload is resident at a time.
Layers& resident(Backend& backend, const Workload& workload, int64_t count) {
  static Workload of;
  static Layers layers;
  if (of != workload) layers.clear();
  of = workload;
  if (static_cast<int64_t>(layers.size()) < count) {
    const std::vector<LayerTensors> batch(static_cast<size_t>(workload.batch), tensors_for(workload));
    while (static_cast<int64_t>(layers.size()) < count)
      layers.push_back(std::make_unique<LayerSteps>(backend, workload, batch));
  }
  return layers;
}

void time_steps(benchmark::State& state, Backend& backend, const Workload& workload, const What& what) try {
  const int64_t bytes = (workload.*what.bytes)();
  // Cold: 300 MB and more between two visits of a layer, or as many layers as fit, whose keys and values are
  // there twice, in a layer and in its cache. Hot: all layers stay in a third of the L2 cache.
  static const int64_t free_bytes = backend.available_bytes();
  const int64_t fitting = free_bytes / 4 * 3 / (2 * workload.dense_bytes());
  const int64_t layers = workload.hot ? std::clamp<int64_t>(16'000'000 / bytes, 1, 8)
                                      : std::min(std::clamp<int64_t>(300'000'000 / bytes + 1, 4, 32),
                                                 std::max<int64_t>(fitting, 1));
  // The ends of a graph would be in the time of a few hot layers: they would be no time of a step.
  if (workload.hot && layers < 4) return state.SkipWithError("so few layers fit into the L2 cache");
  Layers& resident_layers = resident(backend, workload, layers);
  bool possible = true;
  const auto recording = backend.record(
      [&] {
        for (int64_t layer = 0; layer < layers; ++layer) {
          resident_layers[layer]->rewind();
          if (!what.appends) resident_layers[layer]->append();
        }
      },
      [&] {
        for (int64_t layer = 0; layer < layers; ++layer)
          possible = possible && what.run(*resident_layers[layer]);
      });
  if (!possible) return state.SkipWithError("one launch cannot do this step on this GPU");
  for (int warm_up = 0; warm_up < 5; ++warm_up) recording->replay_us();
  for (auto _ : state) {
    std::vector<double> times;
    for (int replay = 0; replay < replays; ++replay)
      times.push_back(recording->replay_us() / static_cast<double>(layers));
    const double us = median(times);
    state.SetIterationTime(1e-6 * us);
    state.counters["MB"] = 1e-6 * static_cast<double>(bytes);
    state.counters["GB/s"] = 1e-3 * static_cast<double>(bytes) / us;
    state.counters["of_read"] = read_us(bytes) / us;
  }
} catch (const EnvironmentError& error) {  // not even one layer fits
  state.SkipWithError(error.what());
} catch (const std::bad_alloc&) {
  state.SkipWithError("the host's memory does not hold a layer");
}

}  // namespace
}  // namespace hindsight

int main(int argc, char** argv) {
  using namespace hindsight;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  if (cuda_device_count() == 0) {
    std::fprintf(stderr, "bench_steps: no CUDA device can be used here\n");
    return 4;
  }
  const auto cuda = make_cuda_backend(0);
  std::vector<Workload> workloads;
  const auto all_windows = [&](int64_t batch) {
    for (const int64_t context : {4096, 16384, 32768, 131072})
      for (const int64_t window : {1, 2, 4, 8, 16})
        workloads.push_back({.batch = batch, .context = context, .window = window});
  };
  for (const int64_t batch : {1, 8, 32}) all_windows(batch);
  for (const int64_t batch : {1, 2, 4, 8, 16, 32, 64}) workloads.push_back({.batch = batch, .context = 8192});
  workloads.push_back({.context = 1'048'576});
  for (const int64_t batch : {1, 8})
    for (const int64_t budget : {512, 4096}) workloads.push_back({.batch = batch, .budget = budget});
  for (const int64_t window : {1, 4}) workloads.push_back({.n_kv_heads = 32, .window = window});
  workloads.push_back({.context = 4096, .budget = 512, .hot = true});
  for (const Workload& workload : workloads)
    for (const What& what : whats) {
      if (workload.window > 1 && !what.has_window) continue;
      benchmark::RegisterBenchmark(
          (std::string(what.name) + "/" + workload.name()).c_str(),
          [&cuda, workload, what](benchmark::State& state) { time_steps(state, *cuda, workload, what); })
          ->UseManualTime()
          ->Iterations(1)
          ->Unit(benchmark::kMicrosecond);
    }
  benchmark::RunSpecifiedBenchmarks();
}
