#pragma once
// Evaluations of a small random model, files and all.

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "backend/backend.h"
#include "config/eval_plan.h"
#include "core/error.h"
#include "evaluation/evaluation.h"
#include "methods/catalog.h"
#include "model/checkpoint.h"
#include "support/random_model.h"
#include "support/temp_dir.h"

namespace hindsight::test {

class SilentObserver final : public SweepObserver {
 public:
  void on_progress(double done, double total, const std::string&) override {
    EXPECT_LE(done, total);
    done_ = done;
    total_ = total;
  }
  void check_interrupt() override {
    if (++checks_ == interrupt_at) throw Interrupted("stopped by the test");
  }
  double share() const { return done_ / total_; }
  int64_t interrupt_at = -1;

 private:
  double done_ = 0, total_ = 1;
  int64_t checks_ = 0;
};

/// A folder with a model, data and a configuration.
class EvalCase {
 public:
  explicit EvalCase(const RandomModelShape& shape = {.vocabulary = 256, .seed = 5}) : model(shape) {
    std::filesystem::create_directory(dir / "model");
    model.write(dir / "model");
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(dir / name, std::ios::binary) << text;
  }
  /// `settings`: mode, data and what goes with them; `methods`: the list.
  EvalPlan plan(const std::string& settings,
                const std::string& methods = "  - {name: d, selector: dense}\n") {
    write("c.yaml", "version: 1\nmodel: model\n" + settings + "methods:\n" + methods);
    return load_eval_plan(dir / "c.yaml", method_catalog());
  }
  EvalSpec resolve(const EvalPlan& plan) {
    const Checkpoint checkpoint(plan.model);
    return resolve_evaluation(plan, checkpoint.config(), checkpoint.digest(), *backend);
  }
  /// The points, as the result file has them.
  std::vector<PointResult> run(const EvalPlan& plan, SilentObserver& observer, bool resume = false) {
    const EvalSpec spec = resolve(plan);
    {
      ResultWriter writer(plan.output, {},
                          resume ? std::optional(protocol_of(plan, *backend)) : std::nullopt);
      run_evaluation(plan, spec, Model(Checkpoint(plan.model), *backend, precision_of(plan)), *backend,
                     writer, observer);
    }
    const ResultReader reader(plan.output);
    std::vector<PointResult> points;
    for (const std::string& id : reader.point_ids()) points.push_back(reader.read(id, true));
    return points;
  }
  std::vector<PointResult> run(const EvalPlan& plan) {
    SilentObserver observer;
    return run(plan, observer);
  }

  TempDir dir;
  RandomModel model;
  std::unique_ptr<Backend> backend = make_cpu_backend();
};

inline const Series& series(const PointResult& point, const std::string& name) {
  for (const Series& candidate : point.series)
    if (candidate.name == name) return candidate;
  throw std::out_of_range("no series " + name);
}

inline double summary(const PointResult& point, const std::string& name) {
  for (const auto& [column, value] : point.summary)
    if (column == name) return value;
  throw std::out_of_range("no column " + name);
}

}  // namespace hindsight::test
