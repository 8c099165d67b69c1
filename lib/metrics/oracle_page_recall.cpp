// Share of the k pages with the largest true mass that were loaded.

#include <algorithm>
#include <iterator>

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
    for (int64_t i = 0; i < event.n; ++i) {
      for (int64_t unit = 0; unit < shape_.n_units; ++unit) {
        const std::span<const int32_t> best = event.best.at(i, unit), loaded = event.loaded.at(i, unit);
        if (best.empty()) continue;
        std::vector<int32_t> common;
        std::set_intersection(best.begin(), best.end(), loaded.begin(), loaded.end(),
                              std::back_inserter(common));
        recall_.at(event.first_step + i, event.layer, unit) =
            static_cast<double>(common.size()) / static_cast<double>(best.size());
      }
    }
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
