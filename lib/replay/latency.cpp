#include "replay/latency.h"

#include <algorithm>
#include <array>
#include <string>

#include "methods/catalog.h"

namespace hindsight {
namespace {

constexpr std::array<const char*, 6> stages{"append", "score", "select", "attend", "merge", "total"};
constexpr int64_t warm_ups = 3;

/// One layer of a batch, decoded step by step.
class StepReplay {
 public:
  StepReplay(Backend& backend, const std::vector<const ReplayTrace*>& batch, const ReplayPoint& point,
             int64_t layer)
      : backend_(backend),
        batch_(batch),
        selector_(make_selector(point.method.selector, point.method.parameters)),
        policy_(selector_->unit_policy()),
        window_(retro_window(point.method.parameters)) {
    std::vector<LayerTensors> tensors;
    for (const ReplayTrace* trace : batch) tensors.push_back(TraceReader(trace->file).read_layer(layer));
    layer_ = backend.load_layer(tensors);
    cache_ = backend.make_cache(*layer_, selector_->page_size());

    const auto n = static_cast<int64_t>(batch.size());
    const int64_t units = layer_->units(policy_.unit), heads = layer_->n_q_heads, d = layer_->head_dim;
    int64_t capacity = 1;
    for (const ReplayTrace* trace : batch)
      capacity = std::max(capacity, selector_->list_capacity(trace->first_position, trace->last_position()));
    scores_ = backend.make_tensor<float, 3>({n, units, cache_->max_pages});
    lists_ = {backend.make_tensor<int32_t, 3>({n, units, capacity}),
              backend.make_tensor<int32_t, 2>({n, units})};
    previous_ = backend.make_tensor<int32_t, 3>({n, units, capacity});
    last_loaded_ = backend.make_tensor<int32_t, 3>({n, units, cache_->max_pages});
    saved_loads_ = backend.make_tensor<int32_t, 3>(last_loaded_.shape);
    partials_ = {backend.make_tensor<float, 4>({n, window_, heads, d}),
                 backend.make_tensor<float, 3>({n, window_, heads})};
    // A ring would do for a server; rows of the last w steps of each sequence, in order, are as good to time.
    outputs_ = {backend.make_tensor<float, 3>({n * window_, heads, d}),
                backend.make_tensor<float, 2>({n * window_, heads})};
    dense_out_ = backend.make_tensor<float, 3>({n, heads, d});
    dense_lse_ = backend.make_tensor<float, 2>({n, heads});
  }

  /// Times per stage [stage][repeat] of decoding `step`, after the steps of the window before it.
  std::vector<std::vector<double>> time_step(int64_t step, int64_t repeats) {
    const std::vector<int32_t> never(static_cast<size_t>(last_loaded_.size()), -1);
    backend_.upload(last_loaded_.data(), never.data(), static_cast<int64_t>(never.size() * sizeof(int32_t)));
    const int64_t first = std::max<int64_t>(0, step - window_ + 1);
    rewind(first);
    const auto untimed = backend_.make_stopwatch();
    for (int64_t before = first; before < step; ++before)
      decode(make_block(before, before - first), before, *untimed);
    untimed->intervals_us();

    const Block block = make_block(step, step - first);
    const int64_t load_bytes = last_loaded_.size() * static_cast<int64_t>(sizeof(int32_t));
    backend_.copy(saved_loads_.data(), last_loaded_.data(), load_bytes);
    std::vector<std::vector<double>> times(stages.size());
    const auto stopwatch = backend_.make_stopwatch();
    for (int64_t repeat = -warm_ups; repeat < repeats; ++repeat) {
      rewind(step);
      backend_.copy(last_loaded_.data(), saved_loads_.data(), load_bytes);
      decode(block, step, *stopwatch);
      const std::vector<double> intervals = stopwatch->intervals_us();
      if (repeat < 0) continue;
      double total = 0;
      for (size_t stage = 0; stage < intervals.size(); ++stage) {
        times[stage].push_back(intervals[stage]);
        total += intervals[stage];
      }
      times.back().push_back(total);
    }
    return times;
  }

 private:
  /// The cache as it was before `step`.
  void rewind(int64_t step) {
    std::vector<int64_t> tokens;
    std::vector<TokenRange> missing;
    for (size_t s = 0; s < batch_.size(); ++s) {
      const int64_t wanted = batch_[s]->first_position + step;
      tokens.push_back(std::min(wanted, cache_->n_appended[s]));
      if (wanted > cache_->n_appended[s])
        missing.push_back({static_cast<int64_t>(s), cache_->n_appended[s], wanted});
    }
    backend_.truncate(*cache_, *layer_, tokens);
    if (!missing.empty()) backend_.append(*cache_, *layer_, missing);
  }

  /// One step of every sequence; `in_window` steps of the window came before it.
  Block make_block(int64_t step, int64_t in_window) {
    std::vector<BlockStep> steps;
    for (size_t s = 0; s < batch_.size(); ++s)
      steps.push_back({static_cast<int32_t>(s), static_cast<int32_t>(batch_[s]->first_position + step),
                       static_cast<int32_t>(static_cast<int64_t>(s) * window_ + in_window),
                       static_cast<int32_t>(in_window + 1)});
    return backend_.make_block(std::move(steps));
  }

  /// Marks the borders of append, score, select, attend, merge.
  void decode(const Block& block, int64_t step, Stopwatch& stopwatch) {
    std::vector<TokenRange> next;
    for (size_t s = 0; s < batch_.size(); ++s) {
      const int64_t position = batch_[s]->first_position + step;
      next.push_back({static_cast<int64_t>(s), position, position + 1});
    }
    if (selector_->needs_page_mass()) prepare_mass(block, next);
    const SelectionInput input{backend_, *layer_, *cache_, block, mass_};

    stopwatch.mark();
    backend_.append(*cache_, *layer_, next);
    stopwatch.mark();
    if (!selector_->is_dense()) selector_->score(input, scores_);
    stopwatch.mark();
    if (!selector_->is_dense()) {
      selector_->select(input, scores_, lists_);
      if (window_ > 1) backend_.note_loads(block, lists_, last_loaded_, previous_);
    }
    stopwatch.mark();
    if (selector_->is_dense())
      backend_.dense(*layer_, *cache_, block, dense_out_, dense_lse_);
    else
      backend_.attend(*layer_, *cache_, block, policy_, lists_, previous_, window_, partials_);
    stopwatch.mark();
    if (!selector_->is_dense()) backend_.merge(block, window_, partials_, outputs_);
    stopwatch.mark();
  }

  /// An oracle is given the true mass: computing it is no part of a step that could be deployed, and is not
  /// timed.
  void prepare_mass(const Block& block, const std::vector<TokenRange>& next) {
    std::vector<int64_t> tokens;
    for (const TokenRange& range : next) tokens.push_back(range.from);
    backend_.append(*cache_, *layer_, next);
    if (mass_.size() == 0) mass_ = backend_.make_tensor<float, 3>(scores_.shape);
    backend_.dense(*layer_, *cache_, block, dense_out_, dense_lse_);
    backend_.page_mass(*layer_, *cache_, block, policy_.unit, dense_lse_, mass_);
    backend_.truncate(*cache_, *layer_, tokens);
  }

  Backend& backend_;
  std::vector<const ReplayTrace*> batch_;
  std::unique_ptr<Selector> selector_;
  UnitPolicy policy_;
  int64_t window_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
  Tensor<float, 3> scores_, mass_, dense_out_;
  Tensor<float, 2> dense_lse_;
  PageLists lists_;
  Tensor<int32_t, 3> previous_, last_loaded_, saved_loads_;
  Partials partials_;
  Outputs outputs_;
};

}  // namespace

std::vector<int64_t> latency_steps(int64_t n_steps) {
  const int64_t places = std::min<int64_t>(8, n_steps);
  std::vector<int64_t> steps;
  for (int64_t place = 0; place < places; ++place) steps.push_back((2 * place + 1) * n_steps / (2 * places));
  return steps;
}

Measurements replay_latency(Backend& backend, const ReplaySpec& spec, const ReplayPoint& point,
                            const LatencyOptions& options, const std::function<void()>& layer_done) {
  std::vector<const ReplayTrace*> batch;
  int64_t n_steps = spec.traces[point.trace].n_steps;
  for (int64_t s = 0; s < options.batch; ++s) {
    batch.push_back(&spec.traces[(point.trace + static_cast<size_t>(s)) % spec.traces.size()]);
    n_steps = std::min(n_steps, batch.back()->n_steps);
  }

  const std::vector<int64_t> steps = latency_steps(n_steps);
  const auto n_layers = static_cast<int64_t>(point.layers.size());
  Measurements measurements;
  std::vector<int64_t> in_trace = steps;
  for (int64_t& step : in_trace) step += spec.traces[point.trace].first_step();
  measurements.coordinates.push_back({"latency_step", std::move(in_trace)});
  std::vector<int64_t> repeat_numbers;
  for (int64_t repeat = 0; repeat < options.repeats; ++repeat) repeat_numbers.push_back(repeat);
  measurements.coordinates.push_back({"latency_repeat", repeat_numbers});
  for (const char* stage : stages) {
    Series series;
    series.name = std::string("latency_us_") + stage;
    series.dimensions = {"latency_step", "layer", "latency_repeat"};
    series.shape = {static_cast<int64_t>(steps.size()), n_layers, options.repeats};
    series.values.resize(steps.size() * static_cast<size_t>(n_layers * options.repeats));
    series.unit = "us";
    series.description = "time of one decode step of one layer of the whole batch, measured stage by stage";
    measurements.series.push_back(std::move(series));
  }

  for (int64_t layer = 0; layer < n_layers; ++layer) {
    StepReplay replay(backend, batch, point, point.layers[layer]);
    for (size_t place = 0; place < steps.size(); ++place) {
      const auto times = replay.time_step(steps[place], options.repeats);
      for (size_t stage = 0; stage < stages.size(); ++stage)
        std::copy(times[stage].begin(), times[stage].end(),
                  measurements.series[stage].values.begin() +
                      (static_cast<int64_t>(place) * n_layers + layer) * options.repeats);
    }
    layer_done();
  }
  for (const Series& series : measurements.series) {
    measurements.summary.emplace_back(series.name + "_p50", percentile(series.values, 0.50));
    measurements.summary.emplace_back(series.name + "_p95", percentile(series.values, 0.95));
  }
  return measurements;
}

}  // namespace hindsight
