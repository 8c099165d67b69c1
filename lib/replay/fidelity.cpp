#include "replay/fidelity.h"

#include <algorithm>
#include <future>
#include <queue>
#include <utility>

#include "methods/catalog.h"
#include "replay/layer_replay.h"

namespace hindsight {
namespace {

/// The metrics of a point, and where the errors of its window are among those of a pass.
struct ObservedPoint {
  std::vector<std::unique_ptr<Metric>> metrics;
  size_t window = 0;

  void observe(const SelectionEvent& selection, const std::vector<std::vector<float>>& errors) const {
    const auto values = [&](size_t of_window, int64_t which) {
      const std::span<const float> all = errors[of_window];
      const size_t size = all.size() / FidelityErrors::count;
      return all.subspan(static_cast<size_t>(which) * size, size);
    };
    const OutputEvent outputs{.layer = selection.layer,
                              .rel_l2_first = values(0, FidelityErrors::rel_l2),
                              .rel_l2_final = values(window, FidelityErrors::rel_l2),
                              .cosine_final = values(window, FidelityErrors::cosine),
                              .mass_recall_first = values(0, FidelityErrors::mass_recall),
                              .mass_recall_final = values(window, FidelityErrors::mass_recall)};
    for (const auto& metric : metrics) {
      metric->on_selection(selection);
      metric->on_outputs(outputs);
    }
  }
};

/// Calls f(i) for i < n, each on a thread of its own.
template <class F>
auto on_threads(size_t n, const F& f) {
  std::vector<std::future<decltype(f(size_t{0}))>> running;
  for (size_t i = 0; i < n; ++i) running.push_back(std::async(std::launch::async, [f, i] { return f(i); }));
  return running;
}

/// Metrics of all points of a pass. They are made, and take layers in, on other threads, while the backend
/// replays the next ones.
class Observation {
 public:
  Observation(const ReplayTrace& trace, std::span<const ReplayPoint> pass,
              const std::vector<int64_t>& windows)
      : points_(pass.size()) {
    latest_ = std::async(std::launch::async, [this, &trace, pass, windows] {
      for (auto& made : on_threads(pass.size(), [&](size_t i) {
             const ReplayShape shape = replay_shape(trace, pass[i]);
             points_[i].metrics = make_metrics(shape);
             points_[i].window =
                 static_cast<size_t>(std::ranges::find(windows, shape.window) - windows.begin());
           }))
        made.get();
    });
  }
  /// What runs uses the points.
  ~Observation() {
    if (latest_.valid()) latest_.wait();
  }

  /// Takes a layer in, after those before it.
  void begin(LayerResults results) {
    latest_ =
        std::async(std::launch::async, [this, before = latest_, arriving = std::move(results)]() mutable {
          // Taken out of what the future keeps: the results' memory is used again, and futures make no chain.
          std::exchange(before, {}).get();
          const LayerResults layer = std::move(arriving);
          const SelectionEvent selection{layer.layer, layer.counts.get(), layer.n_units, layer.n_columns};
          std::vector<std::vector<float>> errors;
          for (const Download<float>& of_window : layer.errors) errors.push_back(of_window.get());
          for (auto& observed :
               on_threads(points_.size(), [&](size_t i) { points_[i].observe(selection, errors); }))
            observed.get();
        });
    layers_.push(latest_);
  }
  /// Layers that were begun and not waited for.
  size_t layers_ahead() const { return layers_.size(); }
  void wait_for_a_layer() {
    layers_.front().get();
    layers_.pop();
  }

  std::vector<Measurements> finish() {
    latest_.get();
    std::vector<std::vector<std::future<Measurements>>> finished;
    for (const ObservedPoint& point : points_)
      finished.push_back(on_threads(point.metrics.size(), [&](size_t i) {
        Measurements own;
        point.metrics[i]->finish(own);
        return own;
      }));
    std::vector<Measurements> measured(points_.size());
    for (size_t i = 0; i < points_.size(); ++i)
      for (auto& own : finished[i]) append(measured[i], own.get());
    return measured;
  }

 private:
  std::vector<ObservedPoint> points_;
  std::shared_future<void> latest_;              ///< waits for all before it
  std::queue<std::shared_future<void>> layers_;  ///< in order
};

}  // namespace

std::vector<Measurements> replay_fidelity(Backend& backend, Residency& residency, const ReplayTrace& trace,
                                          std::span<const ReplayPoint> pass,
                                          const std::function<void()>& layer_done) {
  const ReplayPoint& any = pass.front();
  const std::vector<int64_t> windows = windows_of(pass);
  Observation observation(trace, pass, windows);
  LayerReplay replay(backend, residency, trace, any, windows);
  const auto wait_for_a_layer = [&] {
    observation.wait_for_a_layer();
    layer_done();
  };
  for (size_t layer = 0; layer < any.layers.size(); ++layer) {
    const LayerReplay::Parts parts = replay.parts_of(any.layers[layer]);
    if (layer + 1 < any.layers.size()) residency.read_ahead(any.layers[layer + 1]);
    observation.begin(replay.enqueue(parts, static_cast<int64_t>(layer)));
    // The backend has layers to do while those before are observed, and while metrics, larger than all
    // results, are made.
    while (observation.layers_ahead() > static_cast<size_t>(unobserved_layers)) wait_for_a_layer();
  }
  while (observation.layers_ahead() > 0) wait_for_a_layer();
  return observation.finish();
}

}  // namespace hindsight
