// RetroAttention, section 3, across layers: the positions of the window go through the layer together. In
// this order: their keys and values are written, over those they had; page summaries follow; the newest
// position selects; all rows attend on what stands there now.

#include <algorithm>
#include <optional>

#include "methods/catalog.h"
#include "methods/retro.h"
#include "model/grown_layer.h"
#include "model/layer_attention.h"
#include "model/shown_pages.h"

namespace hindsight {
namespace {

class SparseAttention final : public LayerAttention {
 public:
  SparseAttention(Backend& backend, const LayerShape& shape, const DecodingMethod& method,
                  std::span<const int64_t> capacities, int64_t kept_rows)
      : backend_(backend),
        selector_(make_selector(method.selector, method.parameters)),
        policy_(selector_->unit_policy()),
        retro_(retro_options(method.parameters)),
        grown_(backend, shape, capacities, selector_->page_size()) {
    const auto batch = static_cast<int64_t>(capacities.size());
    const int64_t units = grown_.layer().units(policy_.unit), pages = grown_.cache().max_pages;
    const int64_t heads = shape.n_q_heads, d = shape.head_dim;
    capacity_ = selector_->list_capacity(0, *std::max_element(capacities.begin(), capacities.end()) - 1);
    scores_ = backend.make_tensor<float, 3>({batch, units, pages});
    lists_ = make_lists(batch, capacity_);
    outputs_ = {backend.make_tensor<float, 3>({kept_rows, heads, d}),
                backend.make_tensor<float, 2>({kept_rows, heads})};
    if (retro_.original_query) kept_queries_ = backend.make_tensor<float, 3>({kept_rows, heads, d});
    if (retro_.attend_again) {
      shown_.emplace(kept_rows, units);
      return;
    }
    previous_ = backend.make_tensor<int32_t, 3>({batch, units, capacity_});
    partials_ = {backend.make_tensor<float, 4>({batch, retro_.window, heads, d}),
                 backend.make_tensor<float, 3>({batch, retro_.window, heads})};
    last_loaded_ = backend.make_tensor<int32_t, 3>({batch, units, pages});
    const std::vector<int32_t> never(static_cast<size_t>(last_loaded_.size()), -1);
    backend.upload(last_loaded_.data(), never.data(), static_cast<int64_t>(never.size() * sizeof(int32_t)));
  }

  void start(int64_t sequence, std::span<const float> k, std::span<const float> v) override {
    grown_.start(sequence, k, v);
  }

  void move_rows(std::span<const RowMove> moves) override {
    move(outputs_.out, moves);
    move(outputs_.lse, moves);
    if (retro_.original_query) move(kept_queries_, moves);
    if (shown_) shown_->move_rows(moves);
  }

  std::vector<float> attend(std::span<const WindowSpan> spans, const Projected& rows,
                            bool newest_only) override {
    grown_.write(spans, rows.k, rows.v, retro_.summaries);
    set_queries(spans, rows.q);
    const Block block = block_of(spans, newest_only);
    const PageLists lists = select(block);
    if (retro_.attend_again)
      attend_again(spans, lists, newest_only);
    else
      attend_and_merge(block, lists, newest_only ? 1 : retro_.window);
    return gather(spans, newest_only);
  }

 private:
  PageLists make_lists(int64_t rows, int64_t capacity) {
    const int64_t units = grown_.layer().units(policy_.unit);
    return {backend_.make_tensor<int32_t, 3>({rows, units, capacity}),
            backend_.make_tensor<int32_t, 2>({rows, units})};
  }
  PageLists first_rows(const PageLists& lists, int64_t n) const {
    return {backend_.rows_of(lists.pages, 0, n), backend_.rows_of(lists.count, 0, n)};
  }

  template <int Rank>
  void move(const Tensor<float, Rank>& tensor, std::span<const RowMove> moves) {
    const int64_t row_bytes = tensor.size() / tensor.shape[0] * backend_.real_bytes();
    for (const RowMove& rows : moves)
      backend_.copy(backend_.rows_of(tensor, rows.to, rows.n).data(),
                    backend_.rows_of(tensor, rows.from, rows.n).data(), rows.n * row_bytes);
  }

  void set_queries(std::span<const WindowSpan> spans, std::span<const float> q) {
    if (!retro_.original_query) return grown_.set_queries(spans, q);
    const int64_t row_size = grown_.layer().n_q_heads * grown_.layer().head_dim;
    int64_t row = 0;
    for (const WindowSpan& span : spans) {
      row += span.rows;  // of the newest only: the others keep what they had
      backend_.from_host(backend_.rows_of(kept_queries_, span.kept_row, 1),
                         q.subspan(static_cast<size_t>((row - 1) * row_size), static_cast<size_t>(row_size)));
    }
    grown_.set_kept_queries(spans, kept_queries_);
  }

  Block block_of(std::span<const WindowSpan> spans, bool newest_only) {
    std::vector<BlockStep> steps;
    for (const WindowSpan& span : spans)
      steps.push_back({static_cast<int32_t>(span.sequence), static_cast<int32_t>(span.position),
                       static_cast<int32_t>(span.kept_row),
                       newest_only ? 1 : static_cast<int32_t>(span.rows)});
    return backend_.make_block(std::move(steps));
  }

  PageLists select(const Block& block) {
    const Layer& layer = grown_.layer();
    const Tensor<float, 3> scores = backend_.rows_of(scores_, 0, block.size());
    const PageLists lists = first_rows(lists_, block.size());
    SelectionInput input{backend_, layer, grown_.cache(), block, {}};
    if (selector_->needs_page_mass()) {
      const auto out = backend_.make_tensor<float, 3>({block.size(), layer.n_q_heads, layer.head_dim});
      const auto lse = backend_.make_tensor<float, 2>({block.size(), layer.n_q_heads});
      input.page_mass = backend_.make_tensor<float, 3>(scores.shape);
      backend_.dense(layer, grown_.cache(), block, out, lse);
      backend_.page_mass(layer, grown_.cache(), block, policy_.unit, lse, input.page_mass);
    }
    selector_->score(input, scores);
    selector_->select(input, scores, lists);
    return lists;
  }

  /// The newest position over its pages; the past ones over what of them they have not seen.
  void attend_and_merge(const Block& block, const PageLists& lists, int64_t window) {
    const auto previous = backend_.rows_of(previous_, 0, block.size());
    backend_.note_loads(block, lists, last_loaded_, previous);
    const Partials partials{backend_.rows_of(partials_.out, 0, block.size()),
                            backend_.rows_of(partials_.lse, 0, block.size())};
    backend_.attend(grown_.layer(), grown_.cache(), block, policy_, lists, previous, retro_.window, partials);
    backend_.merge(block, window, partials, outputs_);
  }

  /// Every position over all pages that it has been shown by now.
  void attend_again(std::span<const WindowSpan> spans, const PageLists& lists, bool newest_only) {
    note_shown(spans, lists);
    std::vector<BlockStep> steps;
    for (const WindowSpan& span : spans)
      for (int64_t past = newest_only ? 0 : span.rows - 1; past >= 0; --past)
        steps.push_back({static_cast<int32_t>(span.sequence), static_cast<int32_t>(span.position - past),
                         static_cast<int32_t>(span.kept_row - past), 1});
    const Layer& layer = grown_.layer();
    const int64_t units = layer.units(policy_.unit), n = static_cast<int64_t>(steps.size());
    int64_t capacity = 1;
    for (const BlockStep& step : steps)
      for (int64_t unit = 0; unit < units; ++unit)
        capacity = std::max(capacity, static_cast<int64_t>(shown_->pages(step.row, unit).size()));
    std::vector<int32_t> pages(static_cast<size_t>(n * units * capacity)), count;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t unit = 0; unit < units; ++unit) {
        const std::vector<int32_t>& set = shown_->pages(steps[i].row, unit);
        std::copy(set.begin(), set.end(), pages.begin() + (i * units + unit) * capacity);
        count.push_back(static_cast<int32_t>(set.size()));
      }
    const PageLists all = make_lists(n, capacity);
    backend_.upload(all.pages.data(), pages.data(), static_cast<int64_t>(pages.size() * sizeof(int32_t)));
    backend_.upload(all.count.data(), count.data(), static_cast<int64_t>(count.size() * sizeof(int32_t)));
    const Block block = backend_.make_block(std::move(steps));
    const Partials partials{backend_.make_tensor<float, 4>({n, 1, layer.n_q_heads, layer.head_dim}),
                            backend_.make_tensor<float, 3>({n, 1, layer.n_q_heads})};
    backend_.attend(layer, grown_.cache(), block, policy_, all, {}, 1, partials);
    backend_.merge(block, 1, partials, outputs_);
  }

  void note_shown(std::span<const WindowSpan> spans, const PageLists& lists) {
    const int64_t units = grown_.layer().units(policy_.unit);
    const std::vector<int32_t> pages = backend_.to_host(lists.pages), count = backend_.to_host(lists.count);
    for (size_t i = 0; i < spans.size(); ++i) {
      const WindowSpan& span = spans[i];
      shown_->clear(span.kept_row);
      for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t list = static_cast<int64_t>(i) * units + unit;
        const std::span selected(pages.data() + list * capacity_, static_cast<size_t>(count[list]));
        for (int64_t past = 0; past < span.rows; ++past)
          shown_->add(span.kept_row - past, unit, selected,
                      static_cast<int32_t>((span.position - past) / selector_->page_size()));
      }
    }
  }

  std::vector<float> gather(std::span<const WindowSpan> spans, bool newest_only) {
    std::vector<float> rows;
    for (const WindowSpan& span : spans) {
      const int64_t n = newest_only ? 1 : span.rows;
      const std::vector<float> own =
          backend_.to_host(backend_.rows_of(outputs_.out, span.kept_row - n + 1, n));
      rows.insert(rows.end(), own.begin(), own.end());
    }
    return rows;
  }

  Backend& backend_;
  std::unique_ptr<Selector> selector_;
  UnitPolicy policy_;
  RetroOptions retro_;
  GrownLayer grown_;
  int64_t capacity_ = 0;  // pages of a list
  Tensor<float, 3> scores_, kept_queries_;
  PageLists lists_;
  Tensor<int32_t, 3> previous_, last_loaded_;
  Partials partials_;
  Outputs outputs_;
  std::optional<ShownPages> shown_;  // where past positions attend again
};

}  // namespace

std::unique_ptr<LayerAttention> make_sparse_attention(Backend& backend, const LayerShape& shape,
                                                      const DecodingMethod& method,
                                                      std::span<const int64_t> capacities,
                                                      int64_t kept_rows) {
  return std::make_unique<SparseAttention>(backend, shape, method, capacities, kept_rows);
}

}  // namespace hindsight
