#pragma once
// What an evaluation takes, from shapes, and what of that may be kept for the points to come.

#include <cstdint>
#include <vector>

#include "evaluation/evaluation.h"
#include "evaluation/kept_values.h"
#include "model/layer_attention.h"

namespace hindsight {

DecodingMethod method_of(const EvalPoint& point);
/// Tokens that the model takes at once before a sequence is decoded: its prompt, or all that a dense
/// reference sees.
int64_t prefilled_tokens(const EvalPlan& plan, const EvalSequence& sequence);
/// What every point needs of a sequence, a prompt or a dense reference: held_by() of it.
HeldBytes kept_bytes(const EvalPlan& plan, const ModelConfig& config, const EvalSequence& sequence,
                     const Backend& backend);
/// That of all sequences.
HeldBytes kept_bytes(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                     const Backend& backend);

/// Most that prefills and decoders take where the backend computes, beside the weights and what is kept.
/// `element`: bytes of a key's number in a cache.
int64_t computing_bytes(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                        int64_t element, const Backend& backend);
/// Selections of a step of sequences that are decoded together; two steps are under way at a time.
int64_t selection_bytes(const EvalPlan& plan, const EvalPoint& point, const ModelConfig& config,
                        std::span<const EvalSequence> together);
/// The largest sum of as many groups as are decoded at once.
int64_t largest_at_once(std::vector<int64_t> bytes, const Backend& backend);

/// What host and device have, beside what the process holds.
HeldBytes available_bytes(const Backend& backend);
/// What of `available` may be kept: on the host half; on a device half of what computing leaves.
HeldBytes kept_values_limit(const HeldBytes& available, int64_t computing);

}  // namespace hindsight
