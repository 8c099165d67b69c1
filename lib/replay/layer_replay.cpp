#include "replay/layer_replay.h"

#include <algorithm>

#include "methods/catalog.h"

namespace hindsight {
namespace {

constexpr int64_t int_bytes = sizeof(int32_t);

}  // namespace

LayerReplayShape layer_replay_shape(const ReplayTrace& trace, const Selector& selector,
                                    std::vector<int64_t> windows) {
  const TraceInfo& info = trace.info;
  LayerReplayShape shape;
  shape.n_steps = trace.n_steps;
  shape.units = selector.unit_policy().unit == Unit::per_kv_head ? info.n_kv_heads : info.n_q_heads;
  shape.heads = info.n_q_heads;
  shape.head_dim = info.head_dim;
  shape.pages = (info.n_tokens + selector.page_size() - 1) / selector.page_size();
  shape.capacity = selector.list_capacity(trace.first_position, trace.last_position());
  shape.windows = std::move(windows);
  return shape;
}

int64_t LayerReplayShape::block_steps(const Backend& backend) const {
  // The window does not count: where a backend cuts the work of a block, and with it how sums are rounded,
  // may depend on how many steps there are. A window that few exceed stands for all.
  constexpr int64_t usual_window = 16;
  const int64_t step_bytes = usual_window * heads * (head_dim + 1) * backend.real_bytes() +
                             units * pages * backend.real_bytes() + 3 * units * capacity * int_bytes;
  // All but equal: a last block of a few steps would be cut otherwise than the others.
  const int64_t most = steps_per_block(step_bytes), blocks = (n_steps + most - 1) / most;
  const int64_t equal = (n_steps + blocks - 1) / blocks;
  return std::min({most, (equal + tile_steps - 1) / tile_steps * tile_steps, n_steps});
}

int64_t LayerReplayShape::result_bytes() const {
  const auto errors = static_cast<int64_t>(windows.size()) * FidelityErrors::count * heads *
                      static_cast<int64_t>(sizeof(float));
  return n_steps * (errors + units * SelectionColumns::count(windows.back()) * int_bytes);
}

int64_t LayerReplayShape::bytes(const Backend& backend) const {
  const int64_t real = backend.real_bytes(), block = block_steps(backend);
  const auto n_windows = static_cast<int64_t>(windows.size());
  const int64_t per_block_step = windows.back() * heads * (head_dim + 1) * real + units * pages * real +
                                 3 * units * capacity * int_bytes;
  const int64_t per_step = n_windows * heads * (head_dim + 1) * real +
                           n_windows * FidelityErrors::count * heads * real +
                           units * SelectionColumns::count(windows.back()) * int_bytes;
  return block * per_block_step + n_steps * per_step + 2 * units * pages * int_bytes;
}

LayerReplay::LayerReplay(Backend& backend, Residency& residency, const ReplayTrace& trace,
                         const ReplayPoint& point, std::vector<int64_t> windows)
    : backend_(backend), residency_(residency), method_(point.method) {
  const auto selector = make_selector(method_.selector, method_.parameters);
  policy_ = selector->unit_policy();
  page_size_ = selector->page_size();
  shape_ = layer_replay_shape(trace, *selector, std::move(windows));
  block_steps_ = shape_.block_steps(backend);

  const int64_t units = shape_.units, heads = shape_.heads, d = shape_.head_dim;
  const int64_t window = shape_.windows.back(), steps = shape_.n_steps;
  // Row 0 of scores and counts is the last step of the block before: late ranks need pairs of steps.
  scores_ = backend.make_tensor<float, 3>({block_steps_ + 1, units, shape_.pages});
  lists_ = make_lists(block_steps_ + 1);
  best_ = make_lists(block_steps_);
  previous_ = backend.make_tensor<int32_t, 3>({block_steps_, units, shape_.capacity});
  last_loaded_ = backend.make_tensor<int32_t, 3>({1, units, shape_.pages});
  never_loaded_ = backend.make_tensor<int32_t, 3>(last_loaded_.shape);
  const std::vector<int32_t> never(static_cast<size_t>(never_loaded_.size()), -1);
  backend.upload(never_loaded_.data(), never.data(), never_loaded_.size() * int_bytes);
  partials_ = {backend.make_tensor<float, 4>({block_steps_, window, heads, d}),
               backend.make_tensor<float, 3>({block_steps_, window, heads})};
  counts_ = backend.make_tensor<int32_t, 3>({steps, units, SelectionColumns::count(window)});
  for (size_t w = 0; w < shape_.windows.size(); ++w) {
    outputs_.push_back(
        {backend.make_tensor<float, 3>({steps, heads, d}), backend.make_tensor<float, 2>({steps, heads})});
    errors_.push_back(backend.make_tensor<float, 3>({FidelityErrors::count, steps, heads}));
  }
}

PageLists LayerReplay::make_lists(int64_t rows) {
  return {backend_.make_tensor<int32_t, 3>({rows, shape_.units, shape_.capacity}),
          backend_.make_tensor<int32_t, 2>({rows, shape_.units})};
}

LayerReplay::Parts LayerReplay::parts_of(int64_t layer) {
  // In this order: page masses and the reference may be made in one go.
  Parts parts;
  parts.layer = residency_.layer(layer);
  parts.cache = residency_.cache(layer, page_size_);
  parts.mass = residency_.page_mass(layer, page_size_, policy_.unit);
  parts.reference = residency_.reference(layer);
  return parts;
}

LayerResults LayerReplay::enqueue(const Parts& parts, int64_t index) {
  const auto selector = make_selector(method_.selector, method_.parameters);  // may keep state of a layer
  forget_loads();
  for (int64_t first = 0; first < shape_.n_steps; first += block_steps_)
    run_block(*selector, parts, first, std::min(block_steps_, shape_.n_steps - first));

  LayerResults arriving;
  arriving.layer = index;
  arriving.n_units = counts_.shape[1];
  arriving.n_columns = counts_.shape[2];
  arriving.counts = backend_.begin_to_host(counts_);
  for (size_t w = 0; w < outputs_.size(); ++w) {
    backend_.compare(outputs_[w], 0, parts.reference->out, parts.reference->lse, errors_[w]);
    arriving.errors.push_back(backend_.begin_to_host(errors_[w]));
  }
  return arriving;
}

void LayerReplay::forget_loads() {
  backend_.copy(last_loaded_.data(), never_loaded_.data(), last_loaded_.size() * int_bytes);
  const std::vector<int32_t> none(static_cast<size_t>(shape_.units), 0);
  backend_.upload(lists_.count.data(), none.data(), shape_.units * int_bytes);
}

void LayerReplay::run_block(Selector& selector, const Parts& parts, int64_t first, int64_t n) {
  const int64_t window = shape_.windows.back();
  const Layer& layer = *parts.layer;
  const KvCache& cache = *parts.cache;
  const auto rows_of = [&](const PageLists& lists, int64_t from) {
    return PageLists{backend_.rows_of(lists.pages, from, n), backend_.rows_of(lists.count, from, n)};
  };
  const Block block = residency_.block(first, n, window);
  const SelectionInput input{backend_, layer, cache, block, backend_.rows_of(*parts.mass, first, n)};
  const Tensor<float, 3> scores = backend_.rows_of(scores_, 1, n);
  const PageLists lists = rows_of(lists_, 1);

  selector.score(input, scores);
  selector.select(input, scores, lists);
  const Tensor<int32_t, 3> previous = backend_.rows_of(previous_, 0, n);
  backend_.note_loads(block, lists, last_loaded_, previous);
  const Partials partials{backend_.rows_of(partials_.out, 0, n), backend_.rows_of(partials_.lse, 0, n)};
  backend_.attend(layer, cache, block, policy_, lists, previous, window, partials);
  for (size_t w = 0; w < outputs_.size(); ++w)
    backend_.merge(block, shape_.windows[w], partials, outputs_[w]);

  std::vector<int32_t> k;
  for (const BlockStep& step : block.steps)
    k.push_back(static_cast<int32_t>(std::max<int64_t>(0, selector.budget_pages(step.position))));
  const PageLists best = rows_of(best_, 0);
  backend_.select_top_k(cache, block, input.page_mass, k, Newest::competes, best);

  backend_.count_selection(
      cache, block,
      {.units_per_kv_head = shape_.units / layer.n_kv_heads,
       .loaded = lists,
       .previous = previous,
       .best = best,
       .count_before = backend_.rows_of(lists_.count, 0, n),
       .scores_before = selector.has_scores() ? backend_.rows_of(scores_, 0, n) : Tensor<float, 3>{}},
      window, backend_.rows_of(counts_, first, n));
  carry_last_row(n);
}

void LayerReplay::carry_last_row(int64_t n) {
  const auto carry = [&](auto& tensor, int64_t element) {
    const int64_t row_bytes = tensor.size() / tensor.shape[0] * element;
    backend_.copy(tensor.data(), backend_.rows_of(tensor, n, 1).data(), row_bytes);
  };
  carry(scores_, backend_.real_bytes());
  carry(lists_.count, int_bytes);
}

}  // namespace hindsight
