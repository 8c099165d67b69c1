// Share of the k pages with the largest true mass that were loaded.

#include "metrics/metric.h"

namespace hindsight {
namespace {

class OraclePageRecall final : public Metric {
 public:
  explicit OraclePageRecall(const ReplayShape& shape)
      : shape_(shape),
        recall_(shape, "oracle_page_recall", "unit", shape.n_units, "1",
                "share of the k pages with the largest true mass, summed over the unit's heads, that are in "
                "S_t") {}

  void on_selection(const SelectionEvent& event) override {
    for (int64_t step = 0; step < shape_.n_steps; ++step)
      for (int64_t unit = 0; unit < shape_.n_units; ++unit)
        if (const int32_t best = event.at(step, unit, SelectionColumns::best); best > 0)
          recall_.at(step, event.layer, unit) =
              static_cast<double>(event.at(step, unit, SelectionColumns::best_loaded)) / best;
  }

  void finish(Measurements& measurements) override {
    measurements.summary.emplace_back("oracle_page_recall_mean", mean(recall_.values()));
    measurements.series.push_back(recall_.take());
  }

 private:
  ReplayShape shape_;
  StepLayerSeries recall_;
};

}  // namespace

std::unique_ptr<Metric> make_oracle_page_recall(const ReplayShape& shape) {
  return std::make_unique<OraclePageRecall>(shape);
}

}  // namespace hindsight
