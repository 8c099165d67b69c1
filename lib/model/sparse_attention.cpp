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

  void write_prompt(int64_t sequence, int64_t first_position, const Tensor<float, 3>& k,
                    const Tensor<float, 3>& v) override {
    grown_.write_prompt(sequence, first_position, k, v);
  }

  void move_rows(const KeptRowMoves& moves) override {
    moves.apply(backend_, flat_rows(outputs_.out));
    moves.apply(backend_, outputs_.lse);
    if (retro_.original_query) moves.apply(backend_, flat_rows(kept_queries_));
    if (shown_) shown_->move_rows(moves.moves);
  }

  ChosenRows attend(const LayerRows& rows, const LayerRows& wanted, const ProjectedRows& projected) override {
    grown_.write(rows, projected, retro_.summaries);
    set_queries(rows, projected.q);
    if (retro_.attend_again)
      attend_again(rows, wanted);
    else if (!attend_at_once(wanted.block))
      attend_and_merge(wanted.block, wanted.window());
    return {flat_rows(outputs_.out), wanted.kept};
  }

  std::optional<SelectionDownload> selection(const Block& newest, bool with_true_mass) override {
    const Layer& layer = grown_.layer();
    const int64_t n = newest.size(), units = layer.units(policy_.unit);
    SelectionDownload selection{selector_->page_size(), {backend_, first_rows(lists_, n)}, {}};
    if (!with_true_mass) return selection;
    const auto out = backend_.make_tensor<float, 3>({n, layer.n_q_heads, layer.head_dim});
    const auto lse = backend_.make_tensor<float, 2>({n, layer.n_q_heads});
    const auto mass = backend_.make_tensor<float, 3>({n, units, grown_.cache().max_pages});
    backend_.dense_with_mass(layer, grown_.cache(), newest, policy_.unit, out, lse, mass);
    const PageLists best = make_lists(n, capacity_);
    backend_.select_top_k(grown_.cache(), newest, mass, selector_->budgets(newest), Newest::competes, best);
    selection.true_mass = {
        {backend_, best}, backend_.begin_to_host(mass), grown_.cache().max_pages, layer.n_q_heads / units};
    return selection;
  }

  bool can_be_recorded() const override { return selector_->bounds() && !retro_.attend_again; }
  AttentionBytes bytes() const override {
    AttentionBytes bytes{grown_.cache_bytes(), grown_.cache().summary_bytes(), 0, 0};
    const auto add = [](int64_t& sum, const auto&... tensors) {
      ((sum += tensors.storage ? tensors.storage->bytes() : 0), ...);
    };
    add(bytes.outputs, outputs_.out, outputs_.lse, kept_queries_);
    add(bytes.workspace, scores_, lists_.pages, lists_.count, previous_, last_loaded_, partials_.out,
        partials_.lse);
    return bytes;
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

  void set_queries(const LayerRows& rows, const Tensor<float, 3>& q) {
    if (!retro_.original_query) return grown_.set_queries(rows, q);
    // Of the newest positions only: the others keep what they had.
    backend_.copy_rows(flat_rows(q), rows.newest, flat_rows(kept_queries_), rows.newest_kept,
                       rows.newest.size());
    grown_.set_kept_queries(rows, kept_queries_);
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

  /// Selects, attends and merges in one launch where the backend can.
  bool attend_at_once(const Block& block) {
    const std::optional<Selector::Bounds> bounds = selector_->bounds();
    if (!bounds || (policy_.unit == Unit::per_query_head && grown_.layer().group() > 1)) return false;
    const std::vector<int32_t> k = selector_->budgets(block);
    return backend_.decode_step(grown_.cache(), grown_.layer(), block,
                                {.combine = policy_.combine,
                                 .round_to_storage = bounds->rounded,
                                 .newest = selector_->newest(),
                                 .k = k,
                                 .window = retro_.window,
                                 .lists = first_rows(lists_, block.size()),
                                 .last_loaded = last_loaded_,
                                 .outputs = outputs_,
                                 .is_written = true});
  }

  /// The newest position over its pages; the past ones over what of them they have not seen.
  void attend_and_merge(const Block& block, int64_t window) {
    const PageLists lists = select(block);
    const auto previous = backend_.rows_of(previous_, 0, block.size());
    backend_.note_loads(block, lists, last_loaded_, previous);
    const Partials partials{backend_.rows_of(partials_.out, 0, block.size()),
                            backend_.rows_of(partials_.lse, 0, block.size())};
    backend_.attend(grown_.layer(), grown_.cache(), block, policy_, lists, previous, retro_.window, partials);
    backend_.merge(block, window, partials, outputs_);
  }

  /// Every position over all pages that it has been shown by now.
  void attend_again(const LayerRows& rows, const LayerRows& wanted) {
    note_shown(rows.spans, select(wanted.block));
    std::vector<BlockStep> steps;
    for (const WindowSpan& span : wanted.spans)
      for (int64_t past = span.rows - 1; past >= 0; --past)
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
