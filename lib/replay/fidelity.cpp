#include "replay/fidelity.h"

#include <algorithm>
#include <future>

#include "methods/catalog.h"

namespace hindsight {
namespace {

/// What metrics are told of a layer.
struct LayerEvents {
  SelectionEvent selection;
  OutputEvent outputs;
};

/// The replay of one layer. Tensors are made once and reused by every block.
class LayerReplay {
 public:
  LayerReplay(Backend& backend, Residency& residency, const ReplayTrace& trace, const ReplayPoint& point,
              size_t layer)
      : backend_(backend),
        residency_(residency),
        trace_(trace),
        index_(static_cast<int64_t>(layer)),
        selector_(make_selector(point.method.selector, point.method.parameters)),
        policy_(selector_->unit_policy()),
        window_(retro_window(point.method.parameters)),
        layer_(residency.layer(point.layers[layer])),
        cache_(residency.cache(point.layers[layer], selector_->page_size())),
        mass_(residency.page_mass(point.layers[layer], selector_->page_size(), policy_.unit)),
        reference_(residency.reference(point.layers[layer])) {
    const int64_t units = layer_->units(policy_.unit), heads = layer_->n_q_heads, d = layer_->head_dim;
    const int64_t pages = cache_->max_pages;
    capacity_ = selector_->list_capacity(trace.first_position, trace.last_position());
    const int64_t step_bytes = window_ * heads * (d + 1) * backend.real_bytes() +
                               units * pages * backend.real_bytes() +
                               units * capacity_ * 4 * static_cast<int64_t>(sizeof(int32_t));
    block_steps_ = std::min(steps_per_block(step_bytes), trace.n_steps);

    // Row 0 of scores and counts is the last step of the block before: late ranks need pairs of steps.
    scores_ = backend.make_tensor<float, 3>({block_steps_ + 1, units, pages});
    lists_ = make_lists(block_steps_ + 1, units);
    best_ = make_lists(block_steps_, units);
    counts_ = backend.make_tensor<int32_t, 3>({trace.n_steps, units, SelectionColumns::count(window_)});
    previous_ = backend.make_tensor<int32_t, 3>({block_steps_, units, capacity_});
    partials_ = {backend.make_tensor<float, 4>({block_steps_, window_, heads, d}),
                 backend.make_tensor<float, 3>({block_steps_, window_, heads})};
    final_ = make_outputs(heads, d);
    first_ = window_ > 1 ? make_outputs(heads, d) : final_;
    errors_ = backend.make_tensor<float, 3>({FidelityErrors::count, trace.n_steps, heads});
    last_loaded_ = backend.make_tensor<int32_t, 3>({1, units, pages});
    fill(last_loaded_.data(), last_loaded_.size(), -1);
    fill(lists_.count.data(), units, 0);  // before the first step nothing was loaded
  }

  LayerEvents run() {
    for (int64_t first = 0; first < trace_.n_steps; first += block_steps_)
      run_block(first, std::min(block_steps_, trace_.n_steps - first));
    LayerEvents events;
    events.selection = {index_, backend_.to_host(counts_), counts_.shape[1], counts_.shape[2]};
    const auto errors = [&](const Outputs& outputs) {
      backend_.compare(outputs, 0, reference_->out, reference_->lse, errors_);
      return [host = backend_.to_host(errors_)](int64_t which) {
        const auto size = static_cast<std::ptrdiff_t>(host.size()) / FidelityErrors::count;
        return std::vector<float>(host.begin() + which * size, host.begin() + (which + 1) * size);
      };
    };
    const auto final = errors(final_), first = errors(first_);
    events.outputs = {index_, first(FidelityErrors::rel_l2), final(FidelityErrors::rel_l2),
                      final(FidelityErrors::cosine), first(FidelityErrors::mass_recall),
                      final(FidelityErrors::mass_recall)};
    return events;
  }

 private:
  PageLists make_lists(int64_t rows, int64_t units) {
    return {backend_.make_tensor<int32_t, 3>({rows, units, capacity_}),
            backend_.make_tensor<int32_t, 2>({rows, units})};
  }
  void fill(int32_t* target, int64_t n, int32_t value) {
    const std::vector<int32_t> values(static_cast<size_t>(n), value);
    backend_.upload(target, values.data(), n * static_cast<int64_t>(sizeof(int32_t)));
  }
  Outputs make_outputs(int64_t heads, int64_t d) {
    return {backend_.make_tensor<float, 3>({trace_.n_steps, heads, d}),
            backend_.make_tensor<float, 2>({trace_.n_steps, heads})};
  }
  PageLists rows(const PageLists& lists, int64_t first, int64_t n) const {
    return {backend_.rows_of(lists.pages, first, n), backend_.rows_of(lists.count, first, n)};
  }

  void run_block(int64_t first, int64_t n) {
    const Block block = residency_.block(first, n, window_);
    const SelectionInput input{backend_, *layer_, *cache_, block, backend_.rows_of(*mass_, first, n)};
    const Tensor<float, 3> scores = backend_.rows_of(scores_, 1, n);
    const PageLists lists = rows(lists_, 1, n);

    selector_->score(input, scores);
    selector_->select(input, scores, lists);
    Tensor<int32_t, 3> previous = backend_.rows_of(previous_, 0, n);
    backend_.note_loads(block, lists, last_loaded_, previous);
    const Partials partials{backend_.rows_of(partials_.out, 0, n), backend_.rows_of(partials_.lse, 0, n)};
    backend_.attend(*layer_, *cache_, block, policy_, lists, previous, window_, partials);
    if (window_ > 1) backend_.merge(block, 1, partials, first_);
    backend_.merge(block, window_, partials, final_);

    std::vector<int32_t> k;
    for (const BlockStep& step : block.steps)
      k.push_back(static_cast<int32_t>(std::max<int64_t>(0, selector_->budget_pages(step.position))));
    const PageLists best = rows(best_, 0, n);
    backend_.select_top_k(*cache_, block, input.page_mass, k, Newest::competes, best);

    backend_.count_selection(
        *cache_, block,
        {.units_per_kv_head = lists.count.shape[1] / layer_->n_kv_heads,
         .loaded = lists,
         .previous = previous,
         .best = best,
         .count_before = backend_.rows_of(lists_.count, 0, n),
         .scores_before = selector_->has_scores() ? backend_.rows_of(scores_, 0, n) : Tensor<float, 3>{}},
        window_, backend_.rows_of(counts_, first, n));
    carry_last_row(n);
  }

  void carry_last_row(int64_t n) {
    const auto carry = [&](auto& tensor, int64_t element) {
      const int64_t row_bytes = tensor.size() / tensor.shape[0] * element;
      backend_.copy(tensor.data(), backend_.rows_of(tensor, n, 1).data(), row_bytes);
    };
    carry(scores_, backend_.real_bytes());
    carry(lists_.count, sizeof(int32_t));
  }

  Backend& backend_;
  Residency& residency_;
  const ReplayTrace& trace_;
  int64_t index_;
  std::unique_ptr<Selector> selector_;
  UnitPolicy policy_;
  int64_t window_;
  std::shared_ptr<const Layer> layer_;
  std::shared_ptr<const KvCache> cache_;
  std::shared_ptr<const Tensor<float, 3>> mass_;
  std::shared_ptr<const Reference> reference_;

  int64_t capacity_ = 0, block_steps_ = 0;
  Tensor<float, 3> scores_;
  PageLists lists_, best_;
  Tensor<int32_t, 3> counts_, previous_, last_loaded_;
  Partials partials_;
  Outputs first_, final_;
  Tensor<float, 3> errors_;
};

}  // namespace

ReplayShape replay_shape(const ReplayTrace& trace, const ReplayPoint& point) {
  const auto selector = make_selector(point.method.selector, point.method.parameters);
  ReplayShape shape;
  shape.n_steps = trace.n_steps;
  shape.first_position = trace.first_position;
  shape.layers = point.layers;
  shape.n_q_heads = trace.info.n_q_heads;
  shape.n_kv_heads = trace.info.n_kv_heads;
  shape.n_units =
      selector->unit_policy().unit == Unit::per_kv_head ? trace.info.n_kv_heads : trace.info.n_q_heads;
  shape.head_dim = trace.info.head_dim;
  shape.page_size = selector->page_size();
  shape.window = retro_window(point.method.parameters);
  for (const int64_t layer : point.layers) shape.element_bytes.push_back(size_of(trace.dtype_of(layer)));
  shape.metadata_elements_per_page = selector->metadata_elements_per_page(trace.info.head_dim);
  shape.has_scores = selector->has_scores();
  return shape;
}

Measurements replay_fidelity(Backend& backend, Residency& residency, const ReplayTrace& trace,
                             const ReplayPoint& point, const std::function<void()>& layer_done) {
  // Metrics are made, and take a layer in, while the backend replays the next one.
  std::vector<std::unique_ptr<Metric>> metrics;
  std::future<void> observed =
      std::async(std::launch::async, [&] { metrics = make_metrics(replay_shape(trace, point)); });
  for (size_t layer = 0; layer < point.layers.size(); ++layer) {
    LayerReplay replay(backend, residency, trace, point, layer);
    if (layer + 1 < point.layers.size()) residency.read_ahead(point.layers[layer + 1]);
    LayerEvents events = replay.run();
    observed.get();
    observed = std::async(std::launch::async, [&metrics, events = std::move(events)] {
      for (const auto& metric : metrics) {
        metric->on_selection(events.selection);
        metric->on_outputs(events.outputs);
      }
    });
    layer_done();
  }
  observed.get();
  std::vector<std::future<Measurements>> finished;
  for (const auto& metric : metrics)
    finished.push_back(std::async(std::launch::async, [&metric] {
      Measurements own;
      metric->finish(own);
      return own;
    }));
  Measurements measurements;
  for (auto& own : finished) append(measurements, own.get());
  return measurements;
}

}  // namespace hindsight
