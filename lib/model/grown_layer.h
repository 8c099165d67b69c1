#pragma once
// A layer whose sequences grow, with its cache: what dense and sparse attention share.

#include <functional>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "model/layer_rows.h"
#include "model/model_compute.h"

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
  KvCache& cache() { return *cache_; }
  /// Bytes of the layer and its cache, but for the summaries of pages.
  int64_t cache_bytes() const { return layer_->bytes() + cache_->bytes() - cache_->summary_bytes(); }

  /// Rows [first_position, first_position + n) of a prompt, [n, Hkv, d].
  void write_prompt(int64_t sequence, int64_t first_position, const Tensor<float, 3>& k,
                    const Tensor<float, 3>& v) {
    const RowRange range{sequence, first_position, k.shape[0], 0};
    backend_.write(*cache_, *layer_, {&range, 1}, k, v, Summaries::recompute);
  }
  void write(const LayerRows& rows, const ProjectedRows& projected, Summaries summaries) {
    backend_.write(*cache_, *layer_, rows.ranges, projected.k, projected.v, summaries);
  }
  void set_queries(const LayerRows& rows, const Tensor<float, 3>& q) {
    backend_.set_queries(*layer_, rows.ranges, q);
  }
  /// Queries [kept rows, Hq, d] where those of the spans are kept.
  void set_kept_queries(const LayerRows& rows, const Tensor<float, 3>& kept) {
    std::vector<RowRange> ranges = rows.ranges;
    for (size_t i = 0; i < ranges.size(); ++i) ranges[i].first_row = rows.spans[i].first_kept_row();
    backend_.set_queries(*layer_, ranges, kept);
  }

 private:
  Backend& backend_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
};

}  // namespace hindsight
