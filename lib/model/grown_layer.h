#pragma once
// A layer whose sequences grow, with its cache: what dense and sparse attention share.

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/prompt.h"
#include "model/window_rows.h"

namespace hindsight {

class GrownLayer {
 public:
  GrownLayer(Backend& backend, const LayerShape& shape, std::span<const int64_t> capacities,
             int64_t page_size)
      : backend_(backend),
        layer_(backend.make_growing_layer(shape, capacities)),
        cache_(backend.make_cache(*layer_, page_size)) {}

  const Layer& layer() const { return *layer_; }
  const KvCache& cache() const { return *cache_; }

  /// Keys and values [P, Hkv, d] of a prompt.
  void start(int64_t sequence, std::span<const float> k, std::span<const float> v) {
    const int64_t n = static_cast<int64_t>(k.size()) / (layer_->n_kv_heads * layer_->head_dim);
    const RowRange range{sequence, 0, n, 0};
    backend_.write(*cache_, *layer_, {&range, 1}, kv_rows(k), kv_rows(v), Summaries::recompute);
  }
  /// The rows of the spans' positions, one span after the other.
  void write(std::span<const WindowSpan> spans, std::span<const float> k, std::span<const float> v,
             Summaries summaries) {
    backend_.write(*cache_, *layer_, ranges_of(spans), kv_rows(k), kv_rows(v), summaries);
  }
  /// The same of queries.
  void set_queries(std::span<const WindowSpan> spans, std::span<const float> q) {
    backend_.set_queries(*layer_, ranges_of(spans),
                         on_backend(backend_, q, layer_->n_q_heads, layer_->head_dim));
  }
  /// Queries [kept rows, Hq, d] where those of the spans are kept.
  void set_kept_queries(std::span<const WindowSpan> spans, const Tensor<float, 3>& kept) {
    std::vector<RowRange> ranges = ranges_of(spans);
    for (size_t i = 0; i < ranges.size(); ++i) ranges[i].first_row = spans[i].first_kept_row();
    backend_.set_queries(*layer_, ranges, kept);
  }

 private:
  static std::vector<RowRange> ranges_of(std::span<const WindowSpan> spans) {
    std::vector<RowRange> ranges;
    int64_t first_row = 0;
    for (const WindowSpan& span : spans) {
      ranges.push_back({span.sequence, span.first_position(), span.rows, first_row});
      first_row += span.rows;
    }
    return ranges;
  }
  Tensor<float, 3> kv_rows(std::span<const float> rows) {
    return on_backend(backend_, rows, layer_->n_kv_heads, layer_->head_dim);
  }

  Backend& backend_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
};

}  // namespace hindsight
