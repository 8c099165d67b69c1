// Effective KV exposure: tokens that a query was shown in the end, over tokens loaded at its own step.

#include <algorithm>

#include "metrics/metric.h"

namespace hindsight {
namespace {

class EffectiveExposure final : public Metric {
 public:
  explicit EffectiveExposure(const ReplayShape& shape)
      : shape_(shape),
        exposure_(shape, "effective_exposure", "unit", shape.n_units, "1",
                  "tokens shown to the query in the end / tokens loaded at its own step"),
        shown_(static_cast<size_t>(shape.n_steps * shape.n_units)),
        loaded_(shown_.size()) {}

  void on_selection(const SelectionEvent& event) override {
    if (event.first_step == 0) begin_layer();
    for (int64_t i = 0; i < event.n; ++i)
      for (int64_t unit = 0; unit < shape_.n_units; ++unit)
        show(event.first_step + i, unit, event.loaded.at(i, unit));
    if (event.first_step + event.n < shape_.n_steps) return;
    for (int64_t step = 0; step < shape_.n_steps; ++step)
      for (int64_t unit = 0; unit < shape_.n_units; ++unit) {
        const double loaded = loaded_[step * shape_.n_units + unit];
        // A budget of no pages shows nothing at first: the query's exposure is then undefined, and left out
        // of means.
        if (loaded > 0) exposure_.at(step, event.layer, unit) = shown_[step * shape_.n_units + unit] / loaded;
      }
  }

  void finish(Measurements& measurements) override {
    measurements.summary.emplace_back("effective_exposure_mean", mean(exposure_.values()));
    measurements.series.push_back(exposure_.take());
  }

 private:
  void begin_layer() {
    std::fill(shown_.begin(), shown_.end(), 0.0);
    std::fill(loaded_.begin(), loaded_.end(), 0.0);
    last_loaded_.assign(static_cast<size_t>(shape_.n_units), {});
  }

  /// The pages of a step are shown to its query, and to the queries of the window that had not seen them.
  void show(int64_t step, int64_t unit, std::span<const int32_t> pages) {
    std::vector<int64_t>& last_loaded = last_loaded_[unit];
    const int64_t oldest = std::max<int64_t>(0, step - shape_.window + 1);
    for (const int32_t page : pages) {
      if (page >= static_cast<int64_t>(last_loaded.size()))
        last_loaded.resize(static_cast<size_t>(page) + 1, -1);
      // Who has seen the page, earlier queries have seen too.
      for (int64_t query = step; query >= oldest && (query == step || last_loaded[page] < query); --query) {
        const int64_t tokens = shape_.tokens_of_page(page, shape_.first_position + query);
        shown_[query * shape_.n_units + unit] += static_cast<double>(tokens);
        if (query == step) loaded_[query * shape_.n_units + unit] += static_cast<double>(tokens);
      }
    }
    for (const int32_t page : pages) last_loaded[page] = step;
  }

  ReplayShape shape_;
  StepLayerSeries exposure_;
  std::vector<double> shown_, loaded_;             // tokens, [step, unit] of the current layer
  std::vector<std::vector<int64_t>> last_loaded_;  // step that last loaded a page, [unit][page], -1 for never
};

}  // namespace

std::unique_ptr<Metric> make_effective_exposure(const ReplayShape& shape) {
  return std::make_unique<EffectiveExposure>(shape);
}

}  // namespace hindsight
