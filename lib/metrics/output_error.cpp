// Errors of outputs against dense attention, when a query is first computed and when it leaves its window.

#include <cmath>
#include <future>

#include "metrics/metric.h"

namespace hindsight {
namespace {

class OutputError final : public Metric {
 public:
  explicit OutputError(const ReplayShape& shape)
      : shape_(shape),
        first_(per_head("rel_l2_first",
                        "||o - o*|| / ||o*|| when the query is first computed; NaN where o* is 0")),
        final_(per_head("rel_l2_final",
                        "||o - o*|| / ||o*|| when the query leaves its window; NaN where o* is 0")),
        cosine_(per_head("cosine_final",
                         "cosine of o and o* when the query leaves its window; NaN where o* is 0")),
        cumulative_(
            per_head("cumulative_error", "running mean of rel_l2_final from the first replayed step on")) {}

  void on_outputs(const OutputEvent& event) override {
    // Step by step, as the series lie in memory: they are larger than any cache.
    std::vector<double> sum(static_cast<size_t>(shape_.n_q_heads), 0.0);
    std::vector<int64_t> count(sum.size(), 0);
    for (int64_t step = 0; step < shape_.n_steps; ++step) {
      for (int64_t head = 0; head < shape_.n_q_heads; ++head) {
        const int64_t i = step * shape_.n_q_heads + head;
        first_.at(step, event.layer, head) = event.rel_l2_first[i];
        final_.at(step, event.layer, head) = event.rel_l2_final[i];
        final_counts_.add(event.rel_l2_final[i]);
        cosine_.at(step, event.layer, head) = event.cosine_final[i];
        if (!std::isnan(event.rel_l2_final[i])) {
          sum[head] += event.rel_l2_final[i];
          ++count[head];
        }
        if (count[head] > 0)
          cumulative_.at(step, event.layer, head) = sum[head] / static_cast<double>(count[head]);
      }
    }
  }

  void finish(Measurements& measurements) override {
    // At the end of a pass nobody has anything else to do, and these take longer than all other metrics.
    auto percentiles = std::async(std::launch::async, [this] {
      // One after the other: each may hold a copy of a part of the series.
      return std::pair{final_counts_.find(final_.values(), 0.50), final_counts_.find(final_.values(), 0.95)};
    });
    auto first = first_.begin_mean(), final = final_.begin_mean(), cosine = cosine_.begin_mean(),
         cumulative = cumulative_.begin_mean();
    const auto [p50, p95] = percentiles.get();
    measurements.summary.insert(measurements.summary.end(), {{"rel_l2_first_mean", first.get()},
                                                             {"rel_l2_final_mean", final.get()},
                                                             {"rel_l2_final_p50", p50},
                                                             {"rel_l2_final_p95", p95},
                                                             {"cosine_final_mean", cosine.get()},
                                                             {"cumulative_error_mean", cumulative.get()}});
    for (StepLayerSeries* series : {&first_, &final_, &cosine_, &cumulative_})
      measurements.series.push_back(series->take());
  }

 private:
  StepLayerSeries per_head(const char* name, const char* description) const {
    return StepLayerSeries(shape_, name, "q_head", shape_.n_q_heads, "1", description);
  }

  ReplayShape shape_;
  StepLayerSeries first_, final_, cosine_, cumulative_;
  PercentileCounts final_counts_;
};

}  // namespace

std::unique_ptr<Metric> make_output_error(const ReplayShape& shape) {
  return std::make_unique<OutputError>(shape);
}

}  // namespace hindsight
