#include "replay/fidelity.h"

#include <algorithm>
#include <future>

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

/// Metrics of all points of a pass. They are made, and take a layer in, on other threads, while the backend
/// replays the next one.
class Observation {
 public:
  Observation(const ReplayTrace& trace, std::span<const ReplayPoint> pass,
              const std::vector<int64_t>& windows)
      : points_(pass.size()) {
    observed_ = std::async(std::launch::async, [this, &trace, pass, windows] {
      for (auto& made : on_threads(pass.size(), [&](size_t i) {
             const ReplayShape shape = replay_shape(trace, pass[i]);
             points_[i].metrics = make_metrics(shape);
             points_[i].window =
                 static_cast<size_t>(std::ranges::find(windows, shape.window) - windows.begin());
           }))
        made.get();
    });
  }

  /// Waits for the layer before and begins with this one.
  void begin(LayerResults results) {
    wait();
    observed_ = std::async(std::launch::async, [this, results = std::move(results)] {
      const SelectionEvent selection{results.layer, results.counts.get(), results.n_units, results.n_columns};
      std::vector<std::vector<float>> errors;
      for (const Download<float>& arriving : results.errors) errors.push_back(arriving.get());
      for (auto& observed :
           on_threads(points_.size(), [&](size_t i) { points_[i].observe(selection, errors); }))
        observed.get();
    });
  }
  void wait() {
    if (observed_.valid()) observed_.get();
  }

  std::vector<Measurements> finish() {
    wait();
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
  std::future<void> observed_;  ///< what it works on outlives it
};

}  // namespace

std::vector<Measurements> replay_fidelity(Backend& backend, Residency& residency, const ReplayTrace& trace,
                                          std::span<const ReplayPoint> pass,
                                          const std::function<void()>& layer_done) {
  const ReplayPoint& any = pass.front();
  const std::vector<int64_t> windows = windows_of(pass);
  Observation observation(trace, pass, windows);
  LayerReplay replay(backend, residency, trace, any, windows);
  for (size_t layer = 0; layer < any.layers.size(); ++layer) {
    const LayerReplay::Parts parts = replay.parts_of(any.layers[layer]);
    if (layer + 1 < any.layers.size()) residency.read_ahead(any.layers[layer + 1]);
    // The backend has this layer to do while the one before is observed.
    LayerResults results = replay.enqueue(parts, static_cast<int64_t>(layer));
    observation.wait();
    if (layer > 0) layer_done();
    observation.begin(std::move(results));
  }
  observation.wait();
  layer_done();
  return observation.finish();
}

}  // namespace hindsight
