// How much of a step's pages the step before had loaded too.

#include <algorithm>
#include <iterator>

#include "metrics/metric.h"

namespace hindsight {
namespace {

class PageOverlap final : public Metric {
 public:
  explicit PageOverlap(const ReplayShape& shape)
      : shape_(shape),
        overlap_(shape, "page_overlap", "unit", shape.n_units, "1",
                 "|S_t and S_(t-1)| / |S_t|; NaN at the first replayed step, which has none"),
        before_(static_cast<size_t>(shape.n_units)) {}

  void on_selection(const SelectionEvent& event) override {
    for (int64_t i = 0; i < event.n; ++i) {
      for (int64_t unit = 0; unit < shape_.n_units; ++unit) {
        const std::span<const int32_t> pages = event.loaded.at(i, unit);
        std::vector<int32_t>& before = before_[unit];
        if (event.first_step + i > 0 && !pages.empty()) {
          std::vector<int32_t> common;
          std::set_intersection(pages.begin(), pages.end(), before.begin(), before.end(),
                                std::back_inserter(common));
          overlap_.at(event.first_step + i, event.layer, unit) =
              static_cast<double>(common.size()) / static_cast<double>(pages.size());
        }
        before.assign(pages.begin(), pages.end());
      }
    }
  }

  void finish(Measurements& measurements) override {
    measurements.summary.emplace_back("page_overlap_mean", mean(overlap_.values()));
    measurements.series.push_back(overlap_.take());
  }

 private:
  ReplayShape shape_;
  StepLayerSeries overlap_;
  std::vector<std::vector<int32_t>> before_;  // pages of the step before, per unit
};

}  // namespace

std::unique_ptr<Metric> make_page_overlap(const ReplayShape& shape) {
  return std::make_unique<PageOverlap>(shape);
}

}  // namespace hindsight
