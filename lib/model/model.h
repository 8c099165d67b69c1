#pragma once
// A model ready to compute, where a backend computes.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/checkpoint.h"
#include "model/device_model.h"
#include "model/model_compute.h"

namespace hindsight {

class Model {
 public:
  /// For the CPU backend. Reads and packs all weights, widened to float. Throws InputError where one is not
  /// finite.
  explicit Model(const Checkpoint& checkpoint);
  /// For `backend`, which outlives the model; `precision` concerns devices. Throws EnvironmentError where the
  /// weights do not fit, or what a device needs for a model is not installed.
  Model(const Checkpoint& checkpoint, Backend& backend, Precision precision);
  /// The same with weights from elsewhere.
  Model(const ModelConfig& config, const WeightSource& source, Backend& backend, Precision precision);

  const ModelConfig& config() const { return config_; }
  const ModelCompute& compute() const { return *compute_; }
  /// What of a layer attention depends on.
  LayerShape layer_shape(int64_t layer) const;
  /// Throws std::out_of_range for a token that the vocabulary lacks.
  void require_tokens(std::span<const int32_t> tokens) const;

 private:
  ModelConfig config_;
  std::unique_ptr<const ModelCompute> compute_;
};

}  // namespace hindsight
