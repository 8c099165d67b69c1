// Where the pages that a step loads anew stood in the ranking of the step before: barely missed, or out of
// sight?

#include <algorithm>

#include "metrics/metric.h"

namespace hindsight {
namespace {

constexpr int64_t bins = 9;  // [0,1), [1,2) ... [7,8) times k, and beyond

class LateRank final : public Metric {
 public:
  explicit LateRank(const ReplayShape& shape)
      : shape_(shape),
        counts_(shape.layers.size() * bins, 0.0),
        before_(static_cast<size_t>(shape.n_units)) {}

  void on_selection(const SelectionEvent& event) override {
    if (!shape_.has_scores) return;
    for (int64_t i = 0; i < event.n; ++i) {
      for (int64_t unit = 0; unit < shape_.n_units; ++unit) {
        const std::span<const int32_t> pages = event.loaded.at(i, unit);
        std::vector<int32_t>& before = before_[unit];
        if (event.has_late_ranks(i) && !before.empty()) {
          const std::span<const int32_t> ranks = event.late_ranks.at(i, unit);
          for (size_t c = 0; c < pages.size(); ++c) {
            if (ranks[c] < 0 || std::binary_search(before.begin(), before.end(), pages[c])) continue;
            const int64_t bin = ranks[c] / static_cast<int64_t>(before.size());
            counts_[event.layer * bins + std::min(bin, bins - 1)] += 1;
          }
        }
        before.assign(pages.begin(), pages.end());
      }
    }
  }

  void finish(Measurements& measurements) override {
    if (!shape_.has_scores) return;
    std::vector<int64_t> lower_edges;
    for (int64_t bin = 0; bin < bins; ++bin) lower_edges.push_back(bin);
    measurements.coordinates.push_back({"late_rank_bin", lower_edges});
    Series series;
    series.name = "late_rank_histogram";
    series.dimensions = {"layer", "late_rank_bin"};
    series.shape = {static_cast<int64_t>(shape_.layers.size()), bins};
    series.values = counts_;
    series.integral = true;
    series.unit = "pages";
    series.description =
        "pages of S_(t+1) not in S_t by their rank under the scores of query t, in units of k = |S_t|; a bin "
        "reaches from its "
        "coordinate to the next, the last one without end; pages begun after t are left out";
    measurements.series.push_back(std::move(series));
  }

 private:
  ReplayShape shape_;
  std::vector<double> counts_;                // [layer, bin]
  std::vector<std::vector<int32_t>> before_;  // pages of the step before, per unit
};

}  // namespace

std::unique_ptr<Metric> make_late_rank(const ReplayShape& shape) { return std::make_unique<LateRank>(shape); }

}  // namespace hindsight
