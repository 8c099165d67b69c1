// Time of each primitive on every backend there is, in the shapes of Llama-3.1-8B (bfloat16, 32 query heads,
// 8 KV heads, head_dim 128, pages of 16 tokens), over batches of sequences. Times are the backend's own (CUDA
// events), without the host. Names: backend/primitive/batch/context/steps/window.

#include <benchmark/benchmark.h>

#include <map>
#include <random>

#include "backend/backend.h"

namespace hindsight {
namespace {

constexpr int64_t n_q_heads = 32, n_kv_heads = 8, head_dim = 128, page_size = 16, budget_pages = 128;

/// `steps` consecutive steps of each of `batch` sequences that end at `context` tokens.
struct Workload {
  int64_t batch, context, steps, window;
  auto operator<=>(const Workload&) const = default;
};

LayerTensors random_tensors(int64_t context, int64_t queries) {
  std::minstd_rand generator(7);
  const auto fill = [&](std::vector<std::byte>& target, int64_t elements) {
    std::vector<float> values(static_cast<size_t>(elements));
    for (float& value : values) value = 2e-9f * static_cast<float>(generator()) - 2.0f;
    target.resize(values.size() * 2);
    from_float(DType::bfloat16, values, target);
  };
  LayerTensors tensors;
  tensors.dtype = DType::bfloat16;
  tensors.n_tokens = context;
  tensors.q_start = context - queries;
  tensors.n_q_heads = n_q_heads;
  tensors.n_kv_heads = n_kv_heads;
  tensors.head_dim = head_dim;
  tensors.softmax_scale = 0.0883883476;
  fill(tensors.k, context * n_kv_heads * head_dim);
  fill(tensors.v, context * n_kv_heads * head_dim);
  fill(tensors.q, queries * n_q_heads * head_dim);
  return tensors;
}

/// Everything resident, with page lists selected and a window attended: each primitive can be timed on its
/// own.
class Bench {
 public:
  Bench(Backend& backend, const Workload& workload) : backend_(backend), workload_(workload) {
    const int64_t queries = workload.steps + workload.window - 1;
    const std::vector<LayerTensors> batch(static_cast<size_t>(workload.batch),
                                          random_tensors(workload.context, queries));
    layer_ = backend.load_layer(batch);
    cache_ = backend.make_cache(*layer_, page_size);
    std::vector<BlockStep> steps;
    for (int64_t s = 0; s < workload.batch; ++s) {
      all_.push_back({s, 0, workload.context});
      for (int64_t i = 0; i < workload.steps; ++i)
        steps.push_back({static_cast<int32_t>(s), static_cast<int32_t>(workload.context - workload.steps + i),
                         static_cast<int32_t>(s * queries + workload.window - 1 + i),
                         static_cast<int32_t>(workload.window)});
    }
    append();
    block_ = backend.make_block(steps);
    const int64_t n = block_.size(), w = workload.window;
    scores_ = backend.make_tensor<float, 3>({n, n_kv_heads, cache_->max_pages});
    lists_ = {backend.make_tensor<int32_t, 3>({n, n_kv_heads, budget_pages}),
              backend.make_tensor<int32_t, 2>({n, n_kv_heads})};
    previous_ = backend.make_tensor<int32_t, 3>(lists_.pages.shape);
    timed_previous_ = backend.make_tensor<int32_t, 3>(lists_.pages.shape);
    last_loaded_ = backend.make_tensor<int32_t, 3>({workload.batch, n_kv_heads, cache_->max_pages});
    const std::vector<int32_t> never(static_cast<size_t>(last_loaded_.size()), -1);
    backend.upload(last_loaded_.data(), never.data(), static_cast<int64_t>(never.size() * sizeof(int32_t)));
    partials_ = {backend.make_tensor<float, 4>({n, w, n_q_heads, head_dim}),
                 backend.make_tensor<float, 3>({n, w, n_q_heads})};
    outputs_ = {backend.make_tensor<float, 3>({workload.batch * queries, n_q_heads, head_dim}),
                backend.make_tensor<float, 2>({workload.batch * queries, n_q_heads})};
    dense_out_ = backend.make_tensor<float, 3>({n, n_q_heads, head_dim});
    dense_lse_ = backend.make_tensor<float, 2>({n, n_q_heads});
    score_pages();
    select_top_k();
    // Nothing was loaded before: the past queries of a block's first steps have seen nothing, the most work
    // there is.
    backend.note_loads(block_, lists_, last_loaded_, previous_);
    attend();
    merge();
  }

  void append() {
    backend_.truncate(*cache_, *layer_, std::vector<int64_t>(all_.size(), 0));
    backend_.append(*cache_, *layer_, all_);
  }
  void dense() { backend_.dense(*layer_, *cache_, block_, dense_out_, dense_lse_); }
  void score_pages() { backend_.score_pages(*layer_, *cache_, block_, {}, false, scores_); }
  void page_mass() { backend_.page_mass(*layer_, *cache_, block_, Unit::per_kv_head, dense_lse_, scores_); }
  void select_top_k() {
    const std::vector<int32_t> k(static_cast<size_t>(block_.size()), static_cast<int32_t>(budget_pages));
    backend_.select_top_k(*cache_, block_, scores_, k, Newest::forced, lists_);
  }
  void note_loads() { backend_.note_loads(block_, lists_, last_loaded_, timed_previous_); }
  void attend() {
    backend_.attend(*layer_, *cache_, block_, {}, lists_, previous_, workload_.window, partials_);
  }
  void merge() { backend_.merge(block_, workload_.window, partials_, outputs_); }

 private:
  Backend& backend_;
  Workload workload_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
  std::vector<TokenRange> all_;
  Block block_;
  Tensor<float, 3> scores_, dense_out_;
  Tensor<float, 2> dense_lse_;
  PageLists lists_;
  Tensor<int32_t, 3> previous_, timed_previous_, last_loaded_;
  Partials partials_;
  Outputs outputs_;
};

struct Primitive {
  const char* name;
  void (Bench::*run)();
};
constexpr Primitive primitives[] = {
    {"append", &Bench::append},
    {"dense", &Bench::dense},
    {"score_pages", &Bench::score_pages},
    {"page_mass", &Bench::page_mass},
    {"select_top_k", &Bench::select_top_k},
    {"note_loads", &Bench::note_loads},
    {"attend", &Bench::attend},
    {"merge", &Bench::merge},
};

/// Benchmarks run grouped by workload: one is resident at a time.
Bench& resident(Backend& backend, const Workload& workload) {
  static std::map<std::pair<Backend*, Workload>, std::unique_ptr<Bench>> held;
  const std::pair key{&backend, workload};
  if (!held.contains(key)) {
    held.clear();
    held[key] = std::make_unique<Bench>(backend, workload);
  }
  return *held[key];
}

void time_primitive(benchmark::State& state, Backend& backend, const Workload& workload,
                    Primitive primitive) {
  Bench& bench = resident(backend, workload);
  const auto stopwatch = backend.make_stopwatch();
  for (auto _ : state) {
    stopwatch->mark();
    (bench.*primitive.run)();
    stopwatch->mark();
    state.SetIterationTime(1e-6 * stopwatch->intervals_us().front());
  }
}

void register_backend(const std::string& name, Backend& backend, const std::vector<Workload>& workloads) {
  for (const Workload& workload : workloads)
    for (const Primitive& primitive : primitives)
      benchmark::RegisterBenchmark((name + "/" + primitive.name + "/" + std::to_string(workload.batch) + "/" +
                                    std::to_string(workload.context) + "/" + std::to_string(workload.steps) +
                                    "/" + std::to_string(workload.window))
                                       .c_str(),
                                   [&backend, workload, primitive](benchmark::State& state) {
                                     time_primitive(state, backend, workload, primitive);
                                   })
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
}

}  // namespace
}  // namespace hindsight

int main(int argc, char** argv) {
  using namespace hindsight;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto cpu = make_cpu_backend();
  const auto cuda = cuda_device_count() > 0 ? make_cuda_backend(0) : nullptr;
  register_backend("cpu", *cpu, {{1, 4096, 1, 4}, {1, 4096, 64, 4}});
  if (cuda)
    register_backend("cuda", *cuda,
                     {{1, 4096, 1, 4},
                      {1, 32768, 1, 1},
                      {1, 32768, 1, 4},
                      {1, 32768, 1, 8},
                      {8, 32768, 1, 1},
                      {8, 32768, 1, 4},
                      {1, 8192, 512, 4},
                      {1, 32768, 512, 1},
                      {1, 32768, 512, 4}});
  benchmark::RunSpecifiedBenchmarks();
}
