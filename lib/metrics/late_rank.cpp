// Where the pages that a step loads anew stood in the ranking of the step before: barely missed, or out of
// sight?

#include "metrics/metric.h"

namespace hindsight {
namespace {

constexpr int64_t bins = SelectionColumns::late_rank_bins;

class LateRank final : public Metric {
 public:
  explicit LateRank(const ReplayShape& shape) : shape_(shape), counts_(shape.layers.size() * bins, 0.0) {}

  void on_selection(const SelectionEvent& event) override {
    if (!shape_.has_scores) return;
    for (int64_t step = 0; step < shape_.n_steps; ++step)
      for (int64_t unit = 0; unit < shape_.n_units; ++unit)
        for (int64_t bin = 0; bin < bins; ++bin)
          counts_[event.layer * bins + bin] += event.at(step, unit, SelectionColumns::late_ranks + bin);
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
  std::vector<double> counts_;  // [layer, bin]
};

}  // namespace

std::unique_ptr<Metric> make_late_rank(const ReplayShape& shape) { return std::make_unique<LateRank>(shape); }

}  // namespace hindsight
