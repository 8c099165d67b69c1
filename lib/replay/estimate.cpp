#include "replay/estimate.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <tuple>

#include "core/process_memory.h"
#include "methods/catalog.h"
#include "replay/fidelity.h"
#include "replay/latency.h"
#include "replay/layer_replay.h"
#include "replay/passes.h"
#include "replay/residency.h"

namespace hindsight {
namespace {

struct Rates {
  double flops_per_second = 1e9;
  double seconds_per_call = 1e-5;  // of a primitive on next to nothing
};

/// Times dense attention of a small layer with the heads of the trace.
Rates measure_rates(Backend& backend, const ReplayTrace& trace) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t tokens = 512, queries = 64;
  LayerTensors tensors;
  tensors.dtype = DType::float32;
  tensors.n_tokens = tokens;
  tensors.q_start = tokens - queries;
  tensors.n_q_heads = trace.info.n_q_heads;
  tensors.n_kv_heads = trace.info.n_kv_heads;
  tensors.head_dim = trace.info.head_dim;
  tensors.softmax_scale = trace.info.softmax_scale;
  // Values do not matter to the time; ones keep the arithmetic normal.
  const std::vector<float> ones(static_cast<size_t>(tokens * tensors.n_q_heads * tensors.head_dim), 1.0f);
  const auto fill = [&](std::vector<std::byte>& target, int64_t elements) {
    target.resize(static_cast<size_t>(elements) * sizeof(float));
    from_float(DType::float32, std::span(ones).first(static_cast<size_t>(elements)), target);
  };
  fill(tensors.k, tokens * tensors.n_kv_heads * tensors.head_dim);
  fill(tensors.v, tokens * tensors.n_kv_heads * tensors.head_dim);
  fill(tensors.q, queries * tensors.n_q_heads * tensors.head_dim);

  const auto layer = backend.load_layer({&tensors, 1});
  const auto cache = backend.make_cache(*layer, 16);
  const TokenRange all{0, 0, tokens};
  backend.append(*cache, *layer, {&all, 1});
  auto out = backend.make_tensor<float, 3>({queries, tensors.n_q_heads, tensors.head_dim});
  auto lse = backend.make_tensor<float, 2>({queries, tensors.n_q_heads});
  const auto seconds_of = [&](int64_t n) {
    std::vector<BlockStep> steps;
    for (int64_t i = 0; i < n; ++i)
      steps.push_back({0, static_cast<int32_t>(tokens - queries + i), static_cast<int32_t>(i), 1});
    const Block block = backend.make_block(std::move(steps));
    double best = 1e9;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const auto start = Clock::now();
      backend.dense(*layer, *cache, block, backend.rows_of(out, 0, n), backend.rows_of(lse, 0, n));
      backend.to_host(lse);
      best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
  };
  const double one = seconds_of(1), many = seconds_of(queries);
  const double flops = 4.0 * static_cast<double>(tokens * queries * tensors.n_q_heads * tensors.head_dim);
  return {flops / many, one};
}

/// Bytes of what one trace and layer takes: what is kept on the backend, and on the host what was read of the
/// file.
struct LayerSizes {
  int64_t layer, cache, reference, mass, read;
};

LayerSizes sizes_of(const Backend& backend, const ReplayTrace& trace, int64_t layer, int64_t page_size,
                    int64_t units) {
  const TraceInfo& info = trace.info;
  const int64_t real = backend.real_bytes();
  // The CPU widens what is stored; a device keeps it as it is.
  const bool widens = !backend.is_device();
  const int64_t in_file = size_of(trace.dtype_of(layer)), stored = widens ? real : in_file;
  const int64_t pages = (info.n_tokens + page_size - 1) / page_size;
  const int64_t k = info.n_tokens * info.n_kv_heads * info.head_dim;
  const int64_t q = (info.n_tokens - trace.q_start_of(layer)) * info.n_q_heads * info.head_dim;
  return {(2 * k + q) * stored, (2 * k + pages * info.n_kv_heads * 2 * info.head_dim) * stored,
          trace.n_steps * info.n_q_heads * (info.head_dim + 1) * real, trace.n_steps * units * pages * real,
          (2 * k + q) * in_file};
}

/// What of a trace is kept, each counted once.
struct Kept {
  std::set<int64_t> layers;
  std::set<std::tuple<int64_t, int64_t>> caches;           // layer, page size
  std::set<std::tuple<int64_t, int64_t, int64_t>> masses;  // layer, page size, units
  int64_t bytes = 0;
};

/// What a sweep takes beside the program itself: memory from shapes, time from them and the rates of the
/// machine.
SweepEstimate estimate_beside_program(const SweepPlan& plan, const ReplaySpec& spec, const Backend& backend,
                                      const Rates& rates) {
  const bool on_device = backend.is_device();

  SweepEstimate total;
  // A pass's fidelity and the latency of its points follow one another: the larger counts, on the backend and
  // on the host. The next layer is brought while fidelity computes; latency keeps the tensors of its own.
  int64_t kept_most = 0, layer_most = 0, backend_most = 0, host_most = 0, series_most = 0;
  std::vector<Kept> kept(spec.traces.size());
  for (const ReplayPass& pass : passes_of(spec, [](const ReplayPoint&) { return true; })) {
    const ReplayPoint& any = pass.front();
    const ReplayTrace& trace = spec.traces[any.trace];
    const TraceInfo& info = trace.info;
    const ReplayShape shape = replay_shape(trace, any);
    const auto selector = make_selector(any.method.selector, any.method.parameters);
    const LayerReplayShape tensors = layer_replay_shape(trace, *selector, windows_of(pass));
    const auto n_layers = static_cast<double>(any.layers.size());
    const auto mean_context = static_cast<double>((trace.first_position + trace.last_position()) / 2 + 1);
    const auto per_token = static_cast<double>(4 * info.n_q_heads * info.head_dim);
    const auto steps = static_cast<double>(trace.n_steps);

    if (plan.measure_fidelity) {
      for (const int64_t layer : any.layers) {
        const LayerSizes sizes = sizes_of(backend, trace, layer, shape.page_size, shape.n_units);
        host_most = std::max(host_most, sizes.read);
        layer_most = std::max(layer_most, sizes.layer);
        Kept& of_trace = kept[any.trace];
        if (of_trace.layers.insert(layer).second) {
          of_trace.bytes += sizes.layer + sizes.reference;
          total.seconds += steps * mean_context * per_token / rates.flops_per_second;
          if (of_trace.caches.insert({layer, 16}).second)
            of_trace.bytes += sizes_of(backend, trace, layer, 16, shape.n_units).cache;
        }
        if (of_trace.caches.insert({layer, shape.page_size}).second) of_trace.bytes += sizes.cache;
        if (of_trace.masses.insert({layer, shape.page_size, shape.n_units}).second) {
          of_trace.bytes += sizes.mass;
          total.seconds += steps * mean_context * per_token / 2 / rates.flops_per_second;
        }
        kept_most = std::max(kept_most, of_trace.bytes);
      }
      backend_most = std::max(backend_most, tensors.bytes(backend));
      const auto attended =
          static_cast<double>(std::min(tensors.capacity * shape.page_size, trace.last_position() + 1));
      total.seconds += n_layers * steps * attended * per_token * static_cast<double>(tensors.windows.back()) /
                       rates.flops_per_second;
      const auto n_points = static_cast<int64_t>(pass.size());
      // Results of a layer arrive while those before wait, and one is looked at, in memory of its own.
      series_most = std::max(
          series_most, n_points * measured_bytes(shape) + (unobserved_layers + 2) * tensors.result_bytes());
      total.output_bytes += n_points * measured_values(shape) * static_cast<int64_t>(sizeof(float));
    }
    if (plan.measure_latency) {
      for (const ReplayPoint& point : pass) {
        const int64_t window = retro_window(point.method.parameters);
        const auto measured = static_cast<double>(latency_steps(trace.n_steps).size() *
                                                  static_cast<size_t>(plan.repeats + window + 3));
        const double step_seconds =
            5 * rates.seconds_per_call +
            static_cast<double>(plan.batch * tensors.capacity * shape.page_size * window) * per_token /
                rates.flops_per_second;
        total.seconds += n_layers * measured * step_seconds;
      }
      for (const int64_t layer : any.layers) {
        const LayerSizes sizes = sizes_of(backend, trace, layer, shape.page_size, shape.n_units);
        backend_most = std::max(backend_most, plan.batch * (sizes.layer + sizes.cache));
        host_most = std::max(host_most, plan.batch * sizes.read);
      }
    }
  }
  // A layer that is brought while others fill the residency comes on top; on a device also those that are
  // made room of: their memory is free once the work on them, which is enqueued, has ended.
  const int64_t on_top = (1 + (on_device ? unobserved_layers : 0)) * layer_most;
  kept_most = std::min(kept_most, residency_limit(backend) + on_top);
  const int64_t computing = kept_most + backend_most;
  total.host_bytes = host_most + series_most + (on_device ? 0 : computing);
  total.device_bytes = on_device ? computing : 0;
  return total;
}

}  // namespace

int64_t residency_limit(const Backend& backend) { return backend.available_bytes() / 4 * 3; }

SweepEstimate estimate(const SweepPlan& plan, const ReplaySpec& spec, Backend& backend) {
  // On the CPU what the measurement leaves behind is used again; a device's kernels are loaded by it.
  const int64_t before = resident_bytes();
  const Rates rates = measure_rates(backend, spec.traces.front());
  const bool on_device = backend.is_device();
  SweepEstimate total = estimate_beside_program(plan, spec, backend, rates);
  total.host_bytes += on_device ? resident_bytes() : before;
  return total;
}

void require_memory(const SweepPlan& plan, const ReplaySpec& spec, const Backend& backend) {
  require_memory(estimate_beside_program(plan, spec, backend, Rates{}), backend, plan.file,
                 "fewer steps, layers, a smaller batch or a smaller window");
}

}  // namespace hindsight
