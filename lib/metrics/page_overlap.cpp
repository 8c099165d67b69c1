// How much of a step's pages the step before had loaded too.

#include "metrics/metric.h"

namespace hindsight {
namespace {

class PageOverlap final : public Metric {
 public:
  explicit PageOverlap(const ReplayShape& shape)
      : shape_(shape),
        overlap_(shape, "page_overlap", "unit", shape.n_units, "1",
                 "|S_t and S_(t-1)| / |S_t|; NaN at the first replayed step, which has none") {}

  void on_selection(const SelectionEvent& event) override {
    for (int64_t step = 1; step < shape_.n_steps; ++step)
      for (int64_t unit = 0; unit < shape_.n_units; ++unit)
        if (const int32_t loaded = event.at(step, unit, SelectionColumns::loaded); loaded > 0)
          overlap_.at(step, event.layer, unit) =
              static_cast<double>(event.at(step, unit, SelectionColumns::kept)) / loaded;
  }

  void finish(Measurements& measurements) override {
    measurements.summary.emplace_back("page_overlap_mean", mean(overlap_.values()));
    measurements.series.push_back(overlap_.take());
  }

 private:
  ReplayShape shape_;
  StepLayerSeries overlap_;
};

}  // namespace

std::unique_ptr<Metric> make_page_overlap(const ReplayShape& shape) {
  return std::make_unique<PageOverlap>(shape);
}

}  // namespace hindsight
