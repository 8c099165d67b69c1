#include "model/grown_layer.h"
#include "model/layer_attention.h"

namespace hindsight {
namespace {

constexpr int64_t page_size = 16;  // of no consequence to dense attention

class DenseAttention final : public LayerAttention {
 public:
  DenseAttention(Backend& backend, const LayerShape& shape, std::span<const int64_t> capacities)
      : backend_(backend), grown_(backend, shape, capacities, page_size) {}

  void start(int64_t sequence, std::span<const float> k, std::span<const float> v) override {
    grown_.start(sequence, k, v);
  }
  void move_rows(std::span<const RowMove>) override {}
  std::vector<float> attend(std::span<const WindowSpan> spans, const Projected& rows, bool) override {
    const Layer& layer = grown_.layer();
    grown_.write(spans, rows.k, rows.v, Summaries::recompute);
    grown_.set_queries(spans, rows.q);
    std::vector<BlockStep> steps;
    for (const WindowSpan& span : spans)
      steps.push_back({static_cast<int32_t>(span.sequence), static_cast<int32_t>(span.position),
                       static_cast<int32_t>(steps.size()), 1});
    const auto n = static_cast<int64_t>(steps.size());
    const auto out = backend_.make_tensor<float, 3>({n, layer.n_q_heads, layer.head_dim});
    const auto lse = backend_.make_tensor<float, 2>({n, layer.n_q_heads});
    backend_.dense(layer, grown_.cache(), backend_.make_block(std::move(steps)), out, lse);
    return backend_.to_host(out);
  }

 private:
  Backend& backend_;
  GrownLayer grown_;
};

}  // namespace

std::unique_ptr<LayerAttention> make_dense_attention(Backend& backend, const LayerShape& shape,
                                                     std::span<const int64_t> capacities) {
  return std::make_unique<DenseAttention>(backend, shape, capacities);
}

}  // namespace hindsight
