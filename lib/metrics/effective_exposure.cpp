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
                  "tokens shown to the query in the end / tokens loaded at its own step") {}

  void on_selection(const SelectionEvent& event) override {
    for (int64_t step = 0; step < shape_.n_steps; ++step) {
      for (int64_t unit = 0; unit < shape_.n_units; ++unit) {
        const int64_t loaded = event.at(step, unit, SelectionColumns::shown);
        int64_t shown = 0;
        for (int64_t s = 0; s < std::min(shape_.window, shape_.n_steps - step); ++s)
          shown += event.at(step + s, unit, SelectionColumns::shown + s);
        // A budget of no pages shows nothing at first: the query's exposure is then undefined, and left out
        // of means.
        if (loaded > 0)
          exposure_.at(step, event.layer, unit) = static_cast<double>(shown) / static_cast<double>(loaded);
      }
    }
  }

  void finish(Measurements& measurements) override {
    measurements.summary.emplace_back("effective_exposure_mean", mean(exposure_.values()));
    measurements.series.push_back(exposure_.take());
  }

 private:
  ReplayShape shape_;
  StepLayerSeries exposure_;
};

}  // namespace

std::unique_ptr<Metric> make_effective_exposure(const ReplayShape& shape) {
  return std::make_unique<EffectiveExposure>(shape);
}

}  // namespace hindsight
