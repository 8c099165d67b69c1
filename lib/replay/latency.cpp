#include "replay/latency.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>

#include "methods/catalog.h"

namespace hindsight {
namespace {

constexpr std::array<const char*, 6> stages{"append", "score", "select", "attend", "merge", "total"};
constexpr int64_t warm_ups = 3;

/// What `total` is the time of.
enum class Whole { sum, graph, one_launch };
std::string described(Whole how) {
  switch (how) {
    case Whole::sum:
      return "sum of the stages";
    case Whole::graph:
      return "the primitives of a step as one graph, by events within it; the stages were timed apart";
    case Whole::one_launch:
      return "the step as one launch in a graph, by events within it; the stages were timed apart";
  }
  throw std::invalid_argument("unknown way to time a step");
}

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
    for (int64_t before = first; before < step; ++before) {
      const Block block = make_block(before, before - first);
      prepare_mass(block, before);
      decode(block, before, [] {});
    }

    const Block block = make_block(step, step - first);
    const int64_t load_bytes = last_loaded_.size() * static_cast<int64_t>(sizeof(int32_t));
    backend_.copy(saved_loads_.data(), last_loaded_.data(), load_bytes);
    const auto set_up = [&] {
      rewind(step);
      backend_.copy(last_loaded_.data(), saved_loads_.data(), load_bytes);
      prepare_mass(block, step);
    };
    std::vector<std::vector<double>> times(stages.size());
    const auto stopwatch = backend_.make_stopwatch();
    for (int64_t repeat = -warm_ups; repeat < repeats; ++repeat) {
      set_up();
      decode(block, step, [&] { stopwatch->mark(); });
      const std::vector<double> intervals = stopwatch->intervals_us();
      if (repeat < 0) continue;
      for (size_t stage = 0; stage < intervals.size(); ++stage) times[stage].push_back(intervals[stage]);
      times.back().push_back(std::accumulate(intervals.begin(), intervals.end(), 0.0));
    }
    const auto recording = backend_.record(set_up, [&] { decode_whole(block, step); });
    if (!recording) return times;
    how_ = fused_ ? Whole::one_launch : Whole::graph;
    for (int64_t repeat = -warm_ups; repeat < repeats; ++repeat) {
      const double total = recording->replay_us();
      if (repeat >= 0) times.back()[static_cast<size_t>(repeat)] = total;
    }
    return times;
  }

  /// How the total of the last time_step() was measured.
  Whole how() const { return how_; }

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

  /// The token of every sequence that `step` appends.
  std::vector<TokenRange> tokens_of(int64_t step) const {
    std::vector<TokenRange> next;
    for (size_t s = 0; s < batch_.size(); ++s) {
      const int64_t position = batch_[s]->first_position + step;
      next.push_back({static_cast<int64_t>(s), position, position + 1});
    }
    return next;
  }

  /// Enqueues a step and calls `border` around each of append, score, select, attend, merge.
  void decode(const Block& block, int64_t step, const std::function<void()>& border) {
    const SelectionInput input{backend_, *layer_, *cache_, block, mass_};
    border();
    backend_.append(*cache_, *layer_, tokens_of(step));
    border();
    if (!selector_->is_dense()) selector_->score(input, scores_);
    border();
    if (!selector_->is_dense()) {
      selector_->select(input, scores_, lists_);
      if (window_ > 1) backend_.note_loads(block, lists_, last_loaded_, previous_);
    }
    border();
    if (selector_->is_dense())
      backend_.dense(*layer_, *cache_, block, dense_out_, dense_lse_);
    else
      backend_.attend(*layer_, *cache_, block, policy_, lists_, previous_, window_, partials_);
    border();
    if (!selector_->is_dense()) backend_.merge(block, window_, partials_, outputs_);
    border();
  }

  /// Enqueues a step as a server would: at once where the backend can.
  void decode_whole(const Block& block, int64_t step) {
    const std::optional<Selector::Bounds> bounds = selector_->bounds();
    if (bounds && (policy_.unit == Unit::per_kv_head || layer_->group() == 1)) {
      const std::vector<int32_t> k = selector_->budgets(block);
      fused_ = backend_.decode_step(*cache_, *layer_, block,
                                    {.combine = policy_.combine,
                                     .round_to_storage = bounds->rounded,
                                     .newest = selector_->newest(),
                                     .k = k,
                                     .window = window_,
                                     .lists = lists_,
                                     .last_loaded = last_loaded_,
                                     .outputs = outputs_});
    }
    if (!fused_) decode(block, step, [] {});
  }

  /// An oracle is given the true mass: computing it is no part of a step that could be deployed, and is not
  /// timed.
  void prepare_mass(const Block& block, int64_t step) {
    if (!selector_->needs_page_mass()) return;
    const std::vector<TokenRange> next = tokens_of(step);
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
  bool fused_ = false;
  Whole how_ = Whole::sum;
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
    measurements.series.back().description =
        "time of one decode step of one layer of the whole batch: " + described(replay.how());
    layer_done();
  }
  for (const Series& series : measurements.series) {
    measurements.summary.emplace_back(series.name + "_p50", percentile(series.values, 0.50));
    measurements.summary.emplace_back(series.name + "_p95", percentile(series.values, 0.95));
  }
  return measurements;
}

}  // namespace hindsight
