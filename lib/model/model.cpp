#include "model/model.h"

#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

#include "model/host_model.h"

namespace hindsight {
namespace {

std::unique_ptr<const ModelCompute> made_for(Backend& backend, const ModelConfig& config,
                                             const WeightSource& source, Precision precision) {
  if (backend.model_primitives()) return std::make_unique<DeviceModel>(config, source, backend, precision);
  if (backend.real_bytes() != static_cast<int64_t>(sizeof(float)))
    throw std::invalid_argument("the oracle in double computes no model");
  return std::make_unique<HostModel>(config, source);
}

}  // namespace

Model::Model(const Checkpoint& checkpoint)
    : config_(checkpoint.config()), compute_(std::make_unique<HostModel>(config_, checkpoint)) {}

Model::Model(const Checkpoint& checkpoint, Backend& backend, Precision precision)
    : Model(checkpoint.config(), checkpoint, backend, precision) {}

Model::Model(const ModelConfig& config, const WeightSource& source, Backend& backend, Precision precision)
    : config_(config), compute_(made_for(backend, config, source, precision)) {}

LayerShape Model::layer_shape(int64_t layer) const {
  return {layer,
          config_.n_q_heads,
          config_.n_kv_heads,
          config_.head_dim,
          1 / std::sqrt(static_cast<double>(config_.head_dim)),
          compute_->attention_dtype()};
}

void Model::require_tokens(std::span<const int32_t> tokens) const {
  for (const int32_t token : tokens)
    if (token < 0 || token >= config_.vocabulary)
      throw std::out_of_range(fmt::format("token {} of a vocabulary of {}", token, config_.vocabulary));
}

}  // namespace hindsight
