// True softmax mass of the tokens that a query was shown.

#include "metrics/metric.h"

namespace hindsight {
namespace {

class MassRecall final : public Metric {
 public:
  explicit MassRecall(const ReplayShape& shape)
      : shape_(shape),
        first_(shape, "mass_recall_first", "q_head", shape.n_q_heads, "1",
               "true softmax mass of the tokens shown when the query is first computed"),
        final_(shape, "mass_recall_final", "q_head", shape.n_q_heads, "1",
               "true softmax mass of the tokens shown when the query leaves its window") {}

  void on_outputs(const OutputEvent& event) override {
    for (int64_t step = 0; step < shape_.n_steps; ++step) {
      for (int64_t head = 0; head < shape_.n_q_heads; ++head) {
        first_.at(step, event.layer, head) = event.mass_recall_first[step * shape_.n_q_heads + head];
        final_.at(step, event.layer, head) = event.mass_recall_final[step * shape_.n_q_heads + head];
      }
    }
  }

  void finish(Measurements& measurements) override {
    auto first = first_.begin_mean(), final = final_.begin_mean();
    measurements.summary.emplace_back("mass_recall_first_mean", first.get());
    measurements.summary.emplace_back("mass_recall_final_mean", final.get());
    measurements.series.push_back(first_.take());
    measurements.series.push_back(final_.take());
  }

 private:
  ReplayShape shape_;
  StepLayerSeries first_, final_;
};

}  // namespace

std::unique_ptr<Metric> make_mass_recall(const ReplayShape& shape) {
  return std::make_unique<MassRecall>(shape);
}

}  // namespace hindsight
