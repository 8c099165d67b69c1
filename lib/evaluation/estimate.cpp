#include "evaluation/estimate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "core/counter_random.h"
#include "core/parallel.h"
#include "core/statistics.h"
#include "evaluation/eval_memory.h"
#include "evaluation/groups.h"
#include "evaluation/hidden_errors.h"
#include "methods/retro.h"
#include "model/decoder.h"
#include "model/memory.h"

namespace hindsight {
namespace {

constexpr int64_t real = sizeof(float), number = sizeof(double);
/// A point's group in a result file before there is a number in it: attributes, dimension scales, headers.
constexpr int64_t empty_point_bytes = 40 << 10;

/// Numbers that a point has of a sequence and step, while it is measured; those of all sparse layers among
/// them.
int64_t numbers_per_step(const EvalPlan& plan, int64_t sparse_layers) {
  const int64_t by_layer = plan.measure_recall ? 3 : 1;
  return plan.mode == EvalMode::generate ? 1 + by_layer * sparse_layers : 4 + (2 + by_layer) * sparse_layers;
}

/// A point's series in the result file.
int64_t series_bytes(const EvalPlan& plan, const EvalData& data, int64_t sparse_layers) {
  int64_t steps = 0;
  for (const EvalSequence& sequence : data.sequences) steps = std::max(steps, steps_of(plan, sequence));
  const auto n = static_cast<int64_t>(data.sequences.size());
  const int64_t by_layer = numbers_per_step(plan, sparse_layers) - numbers_per_step(plan, 0);
  if (plan.mode == EvalMode::teacher_forced)
    return (6 * n + by_layer) * ((steps + plan.average_steps - 1) / plan.average_steps) * real;
  return (2 * n * (steps + 1)) * static_cast<int64_t>(sizeof(int64_t)) + (4 * n + by_layer * steps) * real;
}

class MemoryEstimate {
 public:
  MemoryEstimate(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                 const WeightSource& weights, const Backend& backend)
      : plan_(plan),
        spec_(spec),
        config_(config),
        backend_(backend),
        on_device_(backend.is_device()),
        element_(on_device_ && plan.precision == EvalPrecision::storage
                     ? size_of(weights.dtype("model.layers.0.self_attn.q_proj.weight"))
                     : real),
        weights_(weight_bytes(config, weights, on_device_)) {}

  SweepEstimate total() {
    const HeldBytes kept = kept_bytes(plan_, spec_, config_, backend_);
    const int64_t computing = computing_bytes(plan_, spec_, config_, element_, backend_);
    HeldBytes available = available_bytes(backend_);
    (on_device_ ? available.device : available.host) -= weights_;
    const HeldBytes limit = kept_values_limit(available, computing);
    SweepEstimate total;
    for (const EvalPoint& point : spec_.points) take_point(point, !kept.fits_into(limit), total);
    const HeldBytes held = most_held(kept, limit, made_again_);
    if (on_device_) {
      total.device_bytes = weights_ + computing + held.device;
      total.host_bytes = std::max(held.host + measured_, largest_weight_bytes(config_));
    } else {
      total.host_bytes =
          weights_ + std::max(computing + held.host + measured_, largest_weight_bytes(config_));
    }
    return total;
  }

 private:
  void take_point(const EvalPoint& point, bool are_made_again, SweepEstimate& total) {
    const EvalData& data = spec_.data[point.data];
    const int64_t layers = config_.n_layers - first_sparse_layer_of(config_, method_of(point));
    std::vector<int64_t> on_host, on_device, selections;
    for (const Group& group : groups_of(data, plan_.batch, groups_at_once(backend_))) {
      HeldBytes kept;
      for (const EvalSequence& sequence : group.of(data))
        kept += kept_bytes(plan_, config_, sequence, backend_);
      on_host.push_back(are_made_again ? kept.host : 0);
      on_device.push_back(are_made_again ? kept.device : 0);
      // Of two steps in landings of a device, and those of one as they are looked at.
      selections.push_back((on_device_ ? 3 : 1) * selection_bytes(plan_, point, config_, group.of(data)));
    }
    made_again_.host = std::max(made_again_.host, largest_at_once(on_host, backend_));
    made_again_.device = std::max(made_again_.device, largest_at_once(on_device, backend_));
    int64_t numbers = 0;
    for (const EvalSequence& sequence : data.sequences)
      numbers += steps_of(plan_, sequence) * numbers_per_step(plan_, layers);
    const int64_t series = series_bytes(plan_, data, layers);
    measured_ = std::max(measured_,
                         numbers * number + series * number / real + largest_at_once(selections, backend_));
    total.output_bytes += series + empty_point_bytes;
  }

  const EvalPlan& plan_;
  const EvalSpec& spec_;
  const ModelConfig& config_;
  const Backend& backend_;
  bool on_device_;
  int64_t element_, weights_;
  int64_t measured_ = 0;  // what a point gives, and on the host the selections that it looks at
  HeldBytes made_again_;  // of groups decoded at once: prompts and references that are not kept
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class TimeEstimate {
 public:
  TimeEstimate(const EvalPlan& plan, const EvalSpec& spec, const Model& model, Backend& backend)
      : plan_(plan), spec_(spec), model_(model), backend_(backend), at_once_(groups_at_once(backend)) {}

  double seconds() {
    double total = 0;
    std::map<std::pair<std::string, int64_t>, std::vector<const EvalPoint*>> alike;  // by name and window
    for (const EvalPoint& point : spec_.points)
      alike[{point.method.name, retro_options(point.method.parameters).window}].push_back(&point);
    for (const auto& [key, points] : alike) {
      const double per_token = token_seconds(*points[points.size() / 2]);
      for (const EvalPoint* point : points)
        for (const EvalSequence& sequence : spec_.data[point->data].sequences)
          total += static_cast<double>(steps_of(plan_, sequence)) * per_token;
    }
    return total + prefill_seconds();
  }

 private:
  /// Of a piece of work that as many threads do as decode; each its own.
  double shared_seconds(int64_t pieces, const std::function<double()>& piece) const {
    std::vector<double> seconds(static_cast<size_t>(pieces));
    for_each_piece(pieces, at_once_ > 1, [&](int64_t i) { seconds[static_cast<size_t>(i)] = piece(); });
    return mean(seconds) / static_cast<double>(pieces);
  }

  /// For one token of one sequence, with all that is decoded beside it.
  double token_seconds(const EvalPoint& point) const {
    const EvalData& data = spec_.data[point.data];
    const std::vector<Group> groups = groups_of(data, plan_.batch, at_once_);
    const int64_t pieces = std::min(at_once_, static_cast<int64_t>(groups.size()));
    return shared_seconds(pieces, [&] { return step_seconds(point, groups.front().of(data)); }) /
           static_cast<double>(groups.front().n);
  }

  double step_seconds(const EvalPoint& point, std::span<const EvalSequence> sequences) const {
    // Until the window is full and, on a device, a step is recorded.
    const int64_t steps = retro_options(point.method.parameters).window + 4;
    std::vector<int64_t> contexts, capacities;
    for (const EvalSequence& sequence : sequences) {
      contexts.push_back(sequence.prompt_tokens + steps_of(plan_, sequence) / 2);
      capacities.push_back(contexts.back() + steps);
    }
    Decoder decoder(model_, backend_, method_of(point), capacities);
    std::optional<HiddenErrors> hidden;
    if (plan_.mode == EvalMode::teacher_forced) {
      const auto rows = random_tensor<2>({decoder.most_rows(), model_.config().hidden}, 2);
      hidden.emplace(backend_, decoder, 0, [this, rows](int64_t, const WindowSpan& span) {
        return backend_.rows_of(rows, 0, span.rows);
      });
    }
    std::vector<SelectionDownload> selections;
    decoder.observe_selections(
        [&](int64_t, std::span<const WindowSpan>, SelectionDownload selection) {
          selections.push_back(std::move(selection));
        },
        plan_.measure_recall);
    const std::array chunk_shape{prefill_chunk_tokens, model_.config().n_kv_heads, model_.config().head_dim};
    const Decoder::KeysAndValues chunk{random_tensor<3>(chunk_shape, 0), random_tensor<3>(chunk_shape, 1)};
    for (size_t s = 0; s < contexts.size(); ++s)
      decoder.start(static_cast<int64_t>(s), contexts[s], [&](int64_t, int64_t first) {
        const int64_t n = std::min(prefill_chunk_tokens, contexts[s] - first);
        return Decoder::KeysAndValues{backend_.rows_of(chunk.first, 0, n),
                                      backend_.rows_of(chunk.second, 0, n)};
      });
    std::vector<NextToken> next;
    for (size_t s = 0; s < contexts.size(); ++s) next.push_back({static_cast<int64_t>(s), 0});
    double last = 0, all = 0;
    for (int64_t step = 0; step < steps && (step == 0 || all < patience); ++step) {
      const double seconds = seconds_of([&] {
        decoder.step(next);
        selections.clear();
      });
      last = step + 2 < steps || step == 0 ? seconds : std::min(last, seconds);
      all += seconds;
    }
    return last;
  }

  template <int Rank>
  Tensor<float, Rank> random_tensor(const std::array<int64_t, Rank>& shape, uint64_t seed) const {
    const auto rows = backend_.make_tensor<float, Rank>(shape);
    std::vector<float> values(static_cast<size_t>(rows.size()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = counter_uniform(seed, 0, static_cast<int64_t>(i), 0, 0) - 0.5f;
    backend_.from_host(rows, values);
    return rows;
  }

  /// Of all prompts or references: a product for every token, and attention of it to all before it.
  double prefill_seconds() const {
    const EvalSequence* longest = nullptr;
    int64_t sequences = 0;
    for (const EvalData& data : spec_.data)
      for (const EvalSequence& sequence : data.sequences) {
        ++sequences;
        if (!longest || prefilled_tokens(plan_, sequence) > prefilled_tokens(plan_, *longest))
          longest = &sequence;
      }
    const auto taking = [&](int64_t n) {
      const std::span<const int32_t> tokens(longest->tokens.data(), static_cast<size_t>(n));
      return shared_seconds(std::min(at_once_, sequences),
                            [&] { return seconds_of([&] { prefill(model_, backend_, tokens); }); });
    };
    const int64_t most = prefilled_tokens(plan_, *longest), few = std::min(most, prefill_chunk_tokens);
    taking(std::min<int64_t>(few, 16));  // loads what a device loads when it is first used
    const double seconds = taking(few);
    double per_token = seconds / static_cast<double>(few), per_pair = 0;
    if (const int64_t many = std::min(most, 8 * few); many > few && 8 * seconds < patience) {
      const double slope = taking(many) / static_cast<double>(many);
      per_pair = std::max(0.0, (slope - per_token) / static_cast<double>(many - few));
      per_token = slope - per_pair * static_cast<double>(many);
    }
    double total = 0;
    for (size_t data = 0; data < spec_.data.size(); ++data) {
      const double times = times_prefilled(data);
      for (const EvalSequence& sequence : spec_.data[data].sequences) {
        const auto n = static_cast<double>(prefilled_tokens(plan_, sequence));
        total += times * n * (per_token + per_pair * n);
      }
    }
    return total;
  }

  /// How often a sequence of a file is: once where all that is kept for points fits in memory, and for every
  /// point what does not.
  double times_prefilled(size_t data) const {
    const HeldBytes kept = kept_bytes(plan_, spec_, model_.config(), backend_);
    const int64_t element = size_of(model_.compute().attention_dtype());
    const HeldBytes limit = kept_values_limit(
        available_bytes(backend_), computing_bytes(plan_, spec_, model_.config(), element, backend_));
    const auto beyond = [](int64_t held, int64_t most) {
      return held > most ? 1 - static_cast<double>(most) / static_cast<double>(held) : 0;
    };
    const double again = std::max(beyond(kept.host, limit.host), beyond(kept.device, limit.device));
    const auto points = std::count_if(spec_.points.begin(), spec_.points.end(),
                                      [&](const EvalPoint& point) { return point.data == data; });
    return 1 + again * static_cast<double>(std::max<int64_t>(0, points - 1));
  }

  static constexpr double patience = 2;  // seconds that one measurement may take, but for its first step

  const EvalPlan& plan_;
  const EvalSpec& spec_;
  const Model& model_;
  Backend& backend_;
  int64_t at_once_;
};

}  // namespace

SweepEstimate estimate_memory(const EvalPlan& plan, const EvalSpec& spec, const ModelConfig& config,
                              const WeightSource& weights, const Backend& backend) {
  return MemoryEstimate(plan, spec, config, weights, backend).total();
}

double measure_time(const EvalPlan& plan, const EvalSpec& spec, const Model& model, Backend& backend) {
  return TimeEstimate(plan, spec, model, backend).seconds();
}

}  // namespace hindsight
