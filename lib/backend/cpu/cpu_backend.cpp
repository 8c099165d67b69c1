// The CPU backend: primitives in float for speed, in double as the oracle. Same code, so the oracle is as
// readable as it is true.

#include <omp.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <new>
#include <stdexcept>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/attend.h"
#include "backend/cpu/compare.h"
#include "backend/cpu/dense.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/scores.h"
#include "backend/cpu/selection.h"
#include "backend/cpu/write.h"
#include "core/error.h"

namespace hindsight {
namespace {

using namespace cpu;

class CpuStorage final : public Storage {
 public:
  explicit CpuStorage(int64_t bytes) try
      : memory_(allocate_memory(static_cast<size_t>(bytes))), bytes_(bytes) {
  } catch (const std::bad_alloc&) {
    throw EnvironmentError("out of memory: " + std::to_string(bytes) +
                           " bytes could not be allocated; replay fewer layers or steps");
  }
  void* data() const override { return memory_.get(); }
  int64_t bytes() const override { return bytes_; }

 private:
  Memory<void> memory_;
  int64_t bytes_ = 0;
};

class SteadyStopwatch final : public Stopwatch {
 public:
  void mark() override { marks_.push_back(std::chrono::steady_clock::now()); }
  std::vector<double> intervals_us() override {
    std::vector<double> intervals;
    for (size_t i = 1; i < marks_.size(); ++i)
      intervals.push_back(std::chrono::duration<double, std::micro>(marks_[i] - marks_[i - 1]).count());
    marks_.clear();
    return intervals;
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

/// Widens values of the storage type to Real.
void widen(DType dtype, std::span<const std::byte> stored, std::span<float> values) {
  to_float(dtype, stored, values);
}
void widen(DType dtype, std::span<const std::byte> stored, std::span<double> values) {
  to_double(dtype, stored, values);
}

/// Widens [rows, heads, d] in the storage type to Real by head, [heads][rows][d].
template <class Real>
HeadMajor<Real> by_head(DType dtype, std::span<const std::byte> stored, int64_t tokens, int64_t heads,
                        int64_t d) {
  HeadMajor<Real> result(heads, tokens, d);
  const auto row_bytes = static_cast<size_t>(d * size_of(dtype));
#pragma omp parallel for schedule(static) if (worth_threads(tokens * heads * d))
  for (int64_t token = 0; token < tokens; ++token)
    for (int64_t head = 0; head < heads; ++head)
      widen(dtype, stored.subspan(static_cast<size_t>(token * heads + head) * row_bytes, row_bytes),
            std::span(result.at(head, token), static_cast<size_t>(d)));
  return result;
}

template <class Real>
class CpuBackend final : public Backend {
 public:
  std::string device_name() const override {
    return "CPU, " + std::to_string(omp_get_max_threads()) +
           (omp_get_max_threads() == 1 ? " thread" : " threads");
  }
  std::string driver() const override { return ""; }
  int64_t available_bytes() const override {
    std::ifstream meminfo("/proc/meminfo");
    for (std::string key; meminfo >> key;) {
      int64_t kib = 0;
      if (key == "MemAvailable:" && meminfo >> kib) return kib * 1024;
    }
    return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  }
  std::string unsupported(DType, int64_t, int64_t, int64_t, int64_t) const override { return ""; }

  std::shared_ptr<Storage> allocate(int64_t bytes) override { return std::make_shared<CpuStorage>(bytes); }
  void upload(void* target, const void* source, int64_t bytes) override { copy(target, source, bytes); }
  void download(void* target, const void* source, int64_t bytes) override { copy(target, source, bytes); }
  void copy(void* target, const void* source, int64_t bytes) override {
    if (bytes > 0) std::memmove(target, source, static_cast<size_t>(bytes));
  }
  std::unique_ptr<Stopwatch> make_stopwatch() override { return std::make_unique<SteadyStopwatch>(); }
  int64_t real_bytes() const override { return sizeof(Real); }

  std::unique_ptr<Layer> load_layer(std::span<const LayerTensors> batch) override {
    auto layer = std::make_unique<CpuLayer<Real>>();
    const LayerTensors& first = batch.front();
    layer->layer = first.layer;
    layer->n_q_heads = first.n_q_heads;
    layer->n_kv_heads = first.n_kv_heads;
    layer->head_dim = first.head_dim;
    layer->scale = first.softmax_scale;
    layer->dtype = first.dtype;
    for (const LayerTensors& tensors : batch) {
      layer->n_tokens.push_back(tensors.n_tokens);
      layer->q_start.push_back(tensors.q_start);
      std::vector<Real> q(tensors.q.size() / static_cast<size_t>(size_of(tensors.dtype)));
      widen(tensors.dtype, tensors.q, q);
      layer->sequences.push_back(
          {by_head<Real>(tensors.dtype, tensors.k, tensors.n_tokens, tensors.n_kv_heads, tensors.head_dim),
           by_head<Real>(tensors.dtype, tensors.v, tensors.n_tokens, tensors.n_kv_heads, tensors.head_dim),
           std::move(q)});
    }
    return layer;
  }

  std::unique_ptr<KvCache> make_cache(const Layer& layer, int64_t page_size) override {
    auto cache = std::make_unique<CpuCache<Real>>();
    cache->page_size = page_size;
    cache->n_appended.assign(layer.n_tokens.size(), 0);
    for (int64_t tokens : layer.n_tokens) {
      const int64_t pages = (tokens + page_size - 1) / page_size;
      cache->max_pages = std::max(cache->max_pages, pages);
      cache->sequences.push_back({HeadMajor<Real>(layer.n_kv_heads, tokens, layer.head_dim),
                                  HeadMajor<Real>(layer.n_kv_heads, tokens, layer.head_dim),
                                  HeadMajor<Real>(layer.n_kv_heads, pages, 2 * layer.head_dim)});
    }
    return cache;
  }

  std::unique_ptr<Layer> make_growing_layer(const LayerShape& shape,
                                            std::span<const int64_t> capacities) override {
    auto layer = std::make_unique<CpuLayer<Real>>();
    layer->layer = shape.layer;
    layer->n_q_heads = shape.n_q_heads;
    layer->n_kv_heads = shape.n_kv_heads;
    layer->head_dim = shape.head_dim;
    layer->scale = shape.scale;
    layer->n_tokens.assign(capacities.begin(), capacities.end());
    layer->q_start.assign(capacities.size(), 0);
    layer->sequences.resize(capacities.size());
    return layer;
  }
  void set_queries(Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> q) override {
    auto& target = static_cast<CpuLayer<Real>&>(layer);
    const auto rows = reals<Real>(q);
    for (const RowRange& range : ranges) {
      const Real* first = &rows(range.first_row, 0, 0);
      target.sequences[range.sequence].q.assign(first, first + range.n * layer.n_q_heads * layer.head_dim);
      target.q_start[range.sequence] = range.first_position;
    }
  }
  void write(KvCache& cache, const Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> k,
             Tensor<float, 3> v, Summaries summaries) override {
    auto& target = static_cast<CpuCache<Real>&>(cache);
    for (const RowRange& range : ranges) {
      if (range.first_position > cache.n_appended[range.sequence] ||
          range.first_position + range.n > layer.n_tokens[range.sequence])
        throw std::invalid_argument("rows leave a gap in their sequence or exceed it");
      write_rows(target, range, reals<Real>(k), reals<Real>(v), summaries);
    }
  }

  void copy_rows(Tensor<float, 2> from, Tensor<int32_t, 1> from_rows, Tensor<float, 2> to,
                 Tensor<int32_t, 1> to_rows, int64_t n) override {
    const auto source = reals<Real>(from), target = reals<Real>(to);
    const int64_t width = from.shape[1];
    for (int64_t i = 0; i < n; ++i)
      std::copy_n(&source(from_rows.data() ? from_rows.data()[i] : i, 0), width,
                  &target(to_rows.data() ? to_rows.data()[i] : i, 0));
  }

  void compare_rows(Tensor<float, 2> x, std::span<const Tensor<float, 2>> references,
                    Tensor<double, 1> errors) override {
    require_comparable(x, references, errors);
    const auto rows = reals<Real>(x);
    int64_t row = 0;
    for (const Tensor<float, 2>& reference : references)
      for (int64_t i = 0; i < reference.shape[0]; ++i, ++row)
        errors.data()[row] = relative_l2(&rows(row, 0), &reals<Real>(reference)(i, 0), x.shape[1]);
  }

  void append(KvCache& cache, const Layer& layer, std::span<const TokenRange> ranges) override {
    auto& target = static_cast<CpuCache<Real>&>(cache);
    const auto& source = as_cpu<Real>(layer);
    const int64_t d = layer.head_dim, p = cache.page_size;
    for (const TokenRange& range : ranges) {
      auto& to = target.sequences[range.sequence];
      const auto& from = source.sequences[range.sequence];
#pragma omp parallel for schedule(static) if (worth_threads((range.to - range.from) * layer.n_kv_heads * d))
      for (int64_t head = 0; head < layer.n_kv_heads; ++head) {
        std::copy_n(from.k.at(head, range.from), (range.to - range.from) * d, to.k.at(head, range.from));
        std::copy_n(from.v.at(head, range.from), (range.to - range.from) * d, to.v.at(head, range.from));
        for (int64_t page = range.from / p; page * p < range.to; ++page)
          summarise(to.k.at(head, page * p), std::min(p, range.to - page * p), d,
                    to.summaries.at(head, page));
      }
      cache.n_appended[range.sequence] = range.to;
    }
  }

  void truncate(KvCache& cache, const Layer&, std::span<const int64_t> to) override {
    std::copy(to.begin(), to.end(), cache.n_appended.begin());
  }

  void dense(const Layer& layer, const KvCache& cache, const Block& block, Tensor<float, 3> out,
             Tensor<float, 2> lse) override {
    cpu::dense(as_cpu<Real>(layer), as_cpu<Real>(cache), block, reals<Real>(out), reals<Real>(lse));
  }
  void score_pages(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                   bool round_to_storage, Tensor<float, 3> scores) override {
    cpu::score_pages(as_cpu<Real>(layer), as_cpu<Real>(cache), block, policy, round_to_storage,
                     reals<Real>(scores));
  }
  void page_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                 Tensor<float, 2> lse, Tensor<float, 3> mass) override {
    cpu::page_mass(as_cpu<Real>(layer), as_cpu<Real>(cache), block, unit, reals<Real>(lse),
                   reals<Real>(mass));
  }
  void dense_with_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                       Tensor<float, 3> out, Tensor<float, 2> lse, Tensor<float, 3> mass) override {
    cpu::dense(as_cpu<Real>(layer), as_cpu<Real>(cache), block, reals<Real>(out), reals<Real>(lse), unit,
               reals<Real>(mass));
  }
  void random_scores(const Layer& layer, const KvCache& cache, const Block& block, uint64_t seed,
                     Tensor<float, 3> scores) override {
    cpu::random_scores(as_cpu<Real>(layer), as_cpu<Real>(cache), block, seed, reals<Real>(scores));
  }
  void select_top_k(const KvCache& cache, const Block& block, Tensor<float, 3> scores,
                    std::span<const int32_t> k, Newest newest, PageLists lists) override {
    require_selectable(cache.page_size, block, scores, k, newest, lists);
    cpu::select_top_k(cache.page_size, block, reals<Real>(scores), k, newest, lists.pages.view(),
                      lists.count.view());
  }
  void note_loads(const Block& block, const PageLists& lists, Tensor<int32_t, 3> last_loaded,
                  Tensor<int32_t, 3> previous) override {
    cpu::note_loads(block, lists.pages.view(), lists.count.view(), last_loaded.view(), previous.view());
  }
  void attend(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
              const PageLists& lists, Tensor<int32_t, 3> previous, int64_t window,
              Partials partials) override {
    cpu::attend(as_cpu<Real>(layer), as_cpu<Real>(cache), block, policy, lists.pages.view(),
                lists.count.view(), previous.view(), window, reals<Real>(partials.out),
                reals<Real>(partials.lse));
  }
  void merge(const Block& block, int64_t window, const Partials& partials, Outputs outputs) override {
    cpu::merge(block, window, reals<Real>(partials.out), reals<Real>(partials.lse), reals<Real>(outputs.out),
               reals<Real>(outputs.lse));
  }
  void count_selection(const KvCache& cache, const Block& block, const SelectionSets& sets, int64_t window,
                       Tensor<int32_t, 3> counts) override {
    cpu::count_selection(cache.page_size, cache.max_pages, block, sets, reals<Real>(sets.scores_before),
                         window, counts.view());
  }

  void compare(const Outputs& outputs, int64_t first_row, Tensor<float, 3> reference_out,
               Tensor<float, 2> reference_lse, Tensor<float, 3> errors) override {
    cpu::compare(reals<Real>(outputs.out), reals<Real>(outputs.lse), first_row, reals<Real>(reference_out),
                 reals<Real>(reference_lse), reals<Real>(errors));
  }
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend<float>>(); }
std::unique_ptr<Backend> make_cpu_oracle() { return std::make_unique<CpuBackend<double>>(); }

}  // namespace hindsight
