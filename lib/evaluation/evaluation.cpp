#include "evaluation/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"
#include "evaluation/eval_memory.h"
#include "evaluation/eval_results.h"
#include "evaluation/groups.h"
#include "evaluation/kept_values.h"
#include "methods/catalog.h"

namespace hindsight {
namespace {

/// What of an evaluation decides its results beside method and data. On a device sequences that are decoded
/// together change how sums are cut.
std::string identity_of(const EvalPlan& plan, const EvalData& data, const std::string& model_digest,
                        bool on_device) {
  const auto text = [](const std::optional<int64_t>& value) { return value ? std::to_string(*value) : "-"; };
  // Of N the first would be others.
  const auto spread = [&](const std::optional<int64_t>& value) {
    return text(value) + (value ? " spread" : "");
  };
  return fmt::format("{} {} {} sequences={} prompt={} tokens={} new={} temperature={} seed={}{}{}",
                     name_of(plan.mode), model_digest, data.digest, spread(plan.sequences),
                     text(plan.prompt_tokens), text(plan.tokens), text(plan.max_new_tokens), plan.temperature,
                     plan.temperature > 0 ? plan.seed : 0,
                     plan.precision == EvalPrecision::storage ? " precision=storage" : "",
                     on_device ? fmt::format(" batch={}", plan.batch) : "");
}

void check_point(const EvalPlan& plan, const ModelConfig& config, const MethodPoint& method,
                 const Backend& backend) {
  const std::string refusal =
      backend.unsupported(DType::float32, config.head_dim, config.n_q_heads / config.n_kv_heads,
                          method.parameters.integer("page_size"), retro_window(method.parameters));
  if (!refusal.empty())
    throw EnvironmentError(fmt::format("{}: method '{}' on {}: {}", plan.file.string(), method.name,
                                       backend.device_name(), refusal));
  if (method.selector != "dense" && method.parameters.integer("dense_layers") >= config.n_layers)
    throw ConfigError(fmt::format(
        "{}: method '{}': no sparse layer is left: the model has {} layers, and dense_layers is {}",
        plan.file.string(), method.name, config.n_layers, method.parameters.integer("dense_layers")));
}

/// The points that are measured now, and how far they are.
class Progress {
 public:
  Progress(SweepObserver& observer, int64_t total) : observer_(observer), total_(total) {}
  void begin(const std::string& label) {
    const std::lock_guard lock(mutex_);
    label_ = label;
    report();
  }
  /// From any thread. Throws what the observer throws.
  void add(int64_t tokens) {
    const std::lock_guard lock(mutex_);
    done_ += tokens;
    report();
    observer_.check_interrupt();
  }

 private:
  void report() { observer_.on_progress(static_cast<double>(done_), static_cast<double>(total_), label_); }

  SweepObserver& observer_;
  int64_t total_, done_ = 0;
  std::string label_;
  std::mutex mutex_;
};

class Evaluation {
 public:
  Evaluation(const EvalPlan& plan, const EvalSpec& spec, const Model& model, Backend& backend,
             Progress& progress)
      : plan_(plan),
        spec_(spec),
        model_(model),
        backend_(backend),
        progress_(progress),
        threads_(groups_at_once(backend)),
        references_(kept_limit()),
        prompts_(kept_limit()) {}

  EvalMeasurements measure(const EvalPoint& point) {
    return plan_.mode == EvalMode::teacher_forced ? measure_teacher_forced_point(point)
                                                  : measure_generation(point);
  }

 private:
  HeldBytes kept_limit() const {
    const int64_t element = size_of(model_.compute().attention_dtype());
    return kept_values_limit(available_bytes(backend_),
                             computing_bytes(plan_, spec_, model_.config(), element, backend_));
  }

  std::vector<const EvalSequence*> sequences_of(const EvalData& data, Group group) const {
    std::vector<const EvalSequence*> sequences;
    for (const EvalSequence& sequence : group.of(data)) sequences.push_back(&sequence);
    return sequences;
  }

  int64_t first_sparse_layer(const EvalPoint& point) const {
    return std::min(model_.config().n_layers, point.method.parameters.integer("dense_layers"));
  }

  EvalMeasurements measure_teacher_forced_point(const EvalPoint& point) {
    const EvalData& data = spec_.data[point.data];
    const int64_t first_layer = first_sparse_layer(point);
    const std::vector<Group> groups = groups_of(data, plan_.batch, threads_);
    std::vector<TeacherForced> measured(data.sequences.size());
    for_each_piece(static_cast<int64_t>(groups.size()), threads_ > 1, [&](int64_t g) {
      const Group group = groups[static_cast<size_t>(g)];
      const std::vector<const EvalSequence*> sequences = sequences_of(data, group);
      std::vector<std::shared_ptr<const DenseReference>> references;
      for (size_t i = 0; i < group.n; ++i)
        references.push_back(references_.get({point.data, group.first + i}, [&] {
          return make_reference(model_, backend_, *sequences[i], [&] { progress_.add(0); });
        }));
      std::vector<TeacherForced> own = measure_teacher_forced(
          model_, backend_, {point.method.selector, point.method.parameters}, sequences, references,
          first_layer, plan_.measure_recall, [&](int64_t tokens) { progress_.add(tokens); });
      std::move(own.begin(), own.end(), measured.begin() + static_cast<std::ptrdiff_t>(group.first));
    });
    return results_of(measured, first_layer, model_.config().n_layers, plan_.average_steps);
  }

  EvalMeasurements measure_generation(const EvalPoint& point) {
    const EvalData& data = spec_.data[point.data];
    const std::vector<Group> groups = groups_of(data, plan_.batch, threads_);
    std::vector<Generated> generated(data.sequences.size());
    for_each_piece(static_cast<int64_t>(groups.size()), threads_ > 1, [&](int64_t g) {
      const Group group = groups[static_cast<size_t>(g)];
      const std::vector<const EvalSequence*> sequences = sequences_of(data, group);
      std::vector<std::shared_ptr<const Prompt>> prompts;
      for (size_t i = 0; i < group.n; ++i)
        prompts.push_back(prompts_.get({point.data, group.first + i}, [&] {
          progress_.add(0);
          return prefill(model_, backend_, sequences[i]->tokens);
        }));
      auto own =
          generate(model_, backend_, {point.method.selector, point.method.parameters}, sequences, prompts,
                   {plan_.temperature, static_cast<uint64_t>(plan_.seed)}, static_cast<int64_t>(group.first),
                   plan_.measure_recall, [&](int64_t tokens) { progress_.add(tokens); });
      std::move(own.begin(), own.end(), generated.begin() + static_cast<std::ptrdiff_t>(group.first));
    });
    return results_of(generated, data.sequences, first_sparse_layer(point), model_.config().n_layers);
  }

  const EvalPlan& plan_;
  const EvalSpec& spec_;
  const Model& model_;
  Backend& backend_;
  Progress& progress_;
  int64_t threads_;
  using SequenceKey = std::pair<size_t, size_t>;  // file, sequence
  KeptValues<SequenceKey, DenseReference> references_;
  KeptValues<SequenceKey, Prompt> prompts_;
};

}  // namespace

EvalSpec resolve_evaluation(const EvalPlan& plan, const ModelConfig& config, const std::string& model_digest,
                            const Backend& backend) {
  EvalSpec spec;
  for (const TraceFile& file : plan.data) spec.data.push_back(read_eval_data(file, plan, config));
  for (size_t i = 0; i < spec.data.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (spec.data[i].digest == spec.data[j].digest)
        throw ConfigError(fmt::format("{}: data: {} is byte for byte {}; every file once would be right",
                                      plan.data[i].place, spec.data[i].name, spec.data[j].name));
  if (plan.precision == EvalPrecision::storage && !backend.is_device())
    throw ConfigError(fmt::format("{}: precision: storage has no meaning on {}, which computes in float32",
                                  plan.file.string(), backend.device_name()));
  for (const MethodPoint& method : plan.points) check_point(plan, config, method, backend);
  for (size_t data = 0; data < spec.data.size(); ++data)
    for (const MethodPoint& method : plan.points)
      spec.points.push_back(
          {point_id(method, {}, {}, identity_of(plan, spec.data[data], model_digest, backend.is_device())),
           data, method});
  return spec;
}

int64_t steps_of(const EvalPlan& plan, const EvalSequence& sequence) {
  return plan.mode == EvalMode::teacher_forced ? teacher_forced_steps(sequence) : sequence.new_tokens - 1;
}

Precision precision_of(const EvalPlan& plan) {
  return plan.precision == EvalPrecision::storage ? Precision::storage : Precision::float32;
}

Protocol protocol_of(const EvalPlan& plan, const Backend& backend) {
  Protocol protocol;
  protocol.mode = name_of(plan.mode);
  protocol.recall = plan.measure_recall;
  protocol.average_steps = plan.average_steps;
  protocol.device = backend.device_name();
  return protocol;
}

int64_t tokens_to_take(const EvalPlan& plan, const EvalSpec& spec, const ResultWriter* writer) {
  int64_t tokens = 0;
  for (const EvalPoint& point : spec.points) {
    if (writer && writer->has(point.id)) continue;
    for (const EvalSequence& sequence : spec.data[point.data].sequences) tokens += steps_of(plan, sequence);
  }
  return tokens;
}

void run_evaluation(const EvalPlan& plan, const EvalSpec& spec, const Model& model, Backend& backend,
                    ResultWriter& writer, SweepObserver& observer) {
  std::vector<std::string> order;
  for (const EvalPoint& point : spec.points) order.push_back(point.id);
  writer.set_order(order);
  Progress progress(observer, tokens_to_take(plan, spec, &writer));
  Evaluation evaluation(plan, spec, model, backend, progress);
  for (const EvalPoint& point : spec.points) {
    if (writer.has(point.id)) continue;
    progress.begin(point.method.name);
    EvalMeasurements measured = evaluation.measure(point);
    PointResult result;
    result.id = point.id;
    result.trace = spec.data[point.data].name;
    result.trace_digest = spec.data[point.data].digest;
    result.name = point.method.name;
    result.selector = point.method.selector;
    result.parameters = point.method.parameters;
    result.steps = "0-end";
    result.protocol = protocol_of(plan, backend);
    result.coordinates = std::move(measured.coordinates);
    result.series = std::move(measured.series);
    result.summary = std::move(measured.summary);
    writer.add(result);
  }
}

}  // namespace hindsight
