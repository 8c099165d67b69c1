#pragma once
// What models, prompts and decoders take, from shapes: said before any of it is made. Bytes where the backend
// computes, unless said otherwise. `element`: bytes of a key's, value's or query's number in a cache.

#include <cstdint>
#include <span>

#include "model/layer_attention.h"
#include "model/model_config.h"
#include "model/weight_source.h"

namespace hindsight {

/// Of a loaded model; on the host all weights are widened to float.
int64_t weight_bytes(const ModelConfig& config, const WeightSource& source, bool on_device);
/// Of the largest weight while it is read, on the host.
int64_t largest_weight_bytes(const ModelConfig& config);

/// What Decoder::memory() says, but for what depends on the rows of a step.
int64_t decoder_bytes(const ModelConfig& config, const DecodingMethod& method,
                      std::span<const int64_t> capacities, int64_t element);
/// What is downloaded of a step by whoever observes selections: page lists of all sparse layers; with true
/// mass also masses of pages and lists of the largest.
int64_t selection_bytes(const ModelConfig& config, const DecodingMethod& method,
                        std::span<const int64_t> capacities, bool with_true_mass);
/// On top of the decoder's, while a sequence begins with a prompt of n tokens.
int64_t start_bytes(const ModelConfig& config, int64_t n_tokens);

/// While a prompt of n tokens is computed, beside the prompt itself.
int64_t prefill_bytes(const ModelConfig& config, int64_t n_tokens, int64_t element);
/// Prompt::bytes(), on the host.
int64_t prompt_bytes(const ModelConfig& config, int64_t n_tokens);

}  // namespace hindsight
