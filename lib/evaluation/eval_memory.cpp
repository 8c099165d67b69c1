#include "evaluation/eval_memory.h"

#include <algorithm>

#include "evaluation/groups.h"
#include "evaluation/teacher_forcing.h"
#include "model/memory.h"

namespace hindsight {
namespace {

constexpr int64_t real = sizeof(float);

int64_t computing_bytes(const EvalPlan& plan, const EvalPoint& point, const ModelConfig& config,
                        int64_t element, const Backend& backend, std::span<const EvalSequence> together) {
  std::vector<int64_t> capacities;
  int64_t start = 0, prefill = 0;
  for (const EvalSequence& sequence : together) {
    capacities.push_back(sequence.total_tokens());
    const int64_t tokens = prefilled_tokens(plan, sequence);
    start = std::max(start, start_bytes(config, sequence.prompt_tokens));
    // Keys and values of all tokens, of which a reference keeps those of the prompt.
    const int64_t beyond_prompt = prompt_bytes(config, tokens) - prompt_bytes(config, sequence.prompt_tokens);
    prefill =
        std::max(prefill, prefill_bytes(config, tokens, element) + (backend.is_device() ? 0 : beyond_prompt));
  }
  const int64_t decoder = decoder_bytes(config, method_of(point), capacities, element);
  return std::max(prefill, decoder + 2 * selection_bytes(plan, point, config, together) + start);
}

}  // namespace

DecodingMethod method_of(const EvalPoint& point) { return {point.method.selector, point.method.parameters}; }

int64_t selection_bytes(const EvalPlan& plan, const EvalPoint& point, const ModelConfig& config,
                        std::span<const EvalSequence> together) {
  std::vector<int64_t> capacities;
  for (const EvalSequence& sequence : together) capacities.push_back(sequence.total_tokens());
  return selection_bytes(config, method_of(point), capacities, plan.measure_recall);
}

int64_t prefilled_tokens(const EvalPlan& plan, const EvalSequence& sequence) {
  return plan.mode == EvalMode::generate ? sequence.prompt_tokens
                                         : static_cast<int64_t>(sequence.tokens.size()) - 1;
}

HeldBytes kept_bytes(const EvalPlan& plan, const ModelConfig& config, const EvalSequence& sequence,
                     const Backend& backend) {
  HeldBytes kept{prompt_bytes(config, sequence.prompt_tokens), 0};
  if (plan.mode == EvalMode::generate) return kept;
  const int64_t steps = teacher_forced_steps(sequence);
  kept.host += steps * config.vocabulary * real;
  (backend.is_device() ? kept.device : kept.host) += steps * config.n_layers * config.hidden * real;
  return kept;
}

HeldBytes kept_bytes(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                     const Backend& backend) {
  HeldBytes kept;
  for (const EvalData& data : spec.data)
    for (const EvalSequence& sequence : data.sequences) kept += kept_bytes(plan, config, sequence, backend);
  return kept;
}

int64_t computing_bytes(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                        int64_t element, const Backend& backend) {
  int64_t most = 0;
  for (const EvalPoint& point : spec.points) {
    const EvalData& data = spec.data[point.data];
    std::vector<int64_t> groups;
    for (const Group& group : groups_of(data, plan.batch, groups_at_once(backend)))
      groups.push_back(computing_bytes(plan, point, config, element, backend, group.of(data)));
    most = std::max(most, largest_at_once(groups, backend));
  }
  return most;
}

int64_t largest_at_once(std::vector<int64_t> bytes, const Backend& backend) {
  std::sort(bytes.rbegin(), bytes.rend());
  int64_t sum = 0;
  for (size_t i = 0; i < bytes.size() && static_cast<int64_t>(i) < groups_at_once(backend); ++i)
    sum += bytes[i];
  return sum;
}

HeldBytes available_bytes(const Backend& backend) {
  return {make_cpu_backend()->available_bytes(), backend.is_device() ? backend.available_bytes() : 0};
}

HeldBytes kept_values_limit(const HeldBytes& available, int64_t computing) {
  return {available.host / 2, std::max<int64_t>(0, available.device - computing) / 2};
}

}  // namespace hindsight
