#include "model/grown_layer.h"
#include "model/layer_attention.h"

namespace hindsight {
namespace {

class DenseAttention final : public LayerAttention {
 public:
  DenseAttention(Backend& backend, const LayerShape& shape, std::span<const int64_t> capacities)
      : backend_(backend), grown_(backend, shape, capacities, dense_page_size) {
    const auto batch = static_cast<int64_t>(capacities.size());
    out_ = backend.make_tensor<float, 3>({batch, shape.n_q_heads, shape.head_dim});
    lse_ = backend.make_tensor<float, 2>({batch, shape.n_q_heads});
  }

  void write_prompt(int64_t sequence, int64_t first_position, const Tensor<float, 3>& k,
                    const Tensor<float, 3>& v) override {
    grown_.write_prompt(sequence, first_position, k, v);
  }
  void move_rows(const KeptRowMoves&) override {}
  ChosenRows attend(const LayerRows& rows, const LayerRows&, const ProjectedRows& projected) override {
    grown_.write(rows, projected, Summaries::recompute);
    grown_.set_queries(rows, projected.q);
    const Tensor<float, 3> out = backend_.rows_of(out_, 0, rows.size());
    backend_.dense(grown_.layer(), grown_.cache(), rows.block, out, backend_.rows_of(lse_, 0, rows.size()));
    return {flat_rows(out), {}};
  }
  std::optional<SelectionDownload> selection(const Block&, bool) override { return std::nullopt; }
  bool can_be_recorded() const override { return true; }
  AttentionBytes bytes() const override {
    return {grown_.cache_bytes(), grown_.cache().summary_bytes(),
            out_.storage->bytes() + lse_.storage->bytes(), 0};
  }

 private:
  Backend& backend_;
  GrownLayer grown_;
  Tensor<float, 3> out_;
  Tensor<float, 2> lse_;
};

}  // namespace

std::unique_ptr<LayerAttention> make_dense_attention(Backend& backend, const LayerShape& shape,
                                                     std::span<const int64_t> capacities) {
  return std::make_unique<DenseAttention>(backend, shape, capacities);
}

}  // namespace hindsight
