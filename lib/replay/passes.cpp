#include "replay/passes.h"

#include <algorithm>
#include <set>

#include "core/statistics.h"
#include "methods/catalog.h"

namespace hindsight {
namespace {

/// Of measurements and outputs that a pass of several points may hold.
constexpr int64_t most_pass_bytes = int64_t{1} << 30;

bool differ_in_window_alone(const ReplayPoint& a, const ReplayPoint& b) {
  // A window of 1 is the selector alone.
  const auto but_the_window = [](const ReplayPoint& point) {
    ParameterSet parameters = point.method.parameters;
    parameters.set("retro.window", int64_t{1});
    return parameters;
  };
  return a.trace == b.trace && a.layers == b.layers && a.method.selector == b.method.selector &&
         but_the_window(a) == but_the_window(b);
}

int64_t bytes_in_pass(const ReplayTrace& trace, const ReplayPoint& point) {
  const ReplayShape shape = replay_shape(trace, point);
  return measured_bytes(shape) +
         shape.n_steps * shape.n_q_heads * (shape.head_dim + 1) * static_cast<int64_t>(sizeof(float));
}

}  // namespace

ReplayShape replay_shape(const ReplayTrace& trace, const ReplayPoint& point) {
  const auto selector = make_selector(point.method.selector, point.method.parameters);
  ReplayShape shape;
  shape.n_steps = trace.n_steps;
  shape.first_position = trace.first_position;
  shape.layers = point.layers;
  shape.n_q_heads = trace.info.n_q_heads;
  shape.n_kv_heads = trace.info.n_kv_heads;
  shape.n_units =
      selector->unit_policy().unit == Unit::per_kv_head ? trace.info.n_kv_heads : trace.info.n_q_heads;
  shape.head_dim = trace.info.head_dim;
  shape.page_size = selector->page_size();
  shape.window = retro_window(point.method.parameters);
  for (const int64_t layer : point.layers) shape.element_bytes.push_back(size_of(trace.dtype_of(layer)));
  shape.metadata_elements_per_page = selector->metadata_elements_per_page(trace.info.head_dim);
  shape.has_scores = selector->has_scores();
  return shape;
}

int64_t measured_values(const ReplayShape& shape) {
  return shape.n_steps * static_cast<int64_t>(shape.layers.size()) *
         (6 * shape.n_q_heads + 3 * shape.n_units + 5);
}

int64_t measured_bytes(const ReplayShape& shape) {
  // Doubles; a sixth of them again at most while percentiles are found, and what they are counted by.
  const int64_t values = measured_values(shape);
  return (values + values / 6) * static_cast<int64_t>(sizeof(double)) + PercentileCounts::bytes;
}

std::vector<ReplayPass> passes_of(const ReplaySpec& spec,
                                  const std::function<bool(const ReplayPoint&)>& is_wanted) {
  struct Growing {
    ReplayPass points;
    int64_t bytes = 0;
  };
  std::vector<Growing> growing;
  for (const ReplayPoint& point : spec.points) {
    if (!is_wanted(point)) continue;
    const int64_t bytes = bytes_in_pass(spec.traces[point.trace], point);
    const auto same = std::ranges::find_if(growing, [&](const Growing& pass) {
      return pass.bytes + bytes <= most_pass_bytes && differ_in_window_alone(pass.points.front(), point);
    });
    Growing& pass = same != growing.end() ? *same : growing.emplace_back();
    pass.points.push_back(point);
    pass.bytes += bytes;
  }
  std::vector<ReplayPass> passes;
  for (Growing& pass : growing) passes.push_back(std::move(pass.points));
  return passes;
}

std::vector<int64_t> windows_of(std::span<const ReplayPoint> pass) {
  std::set<int64_t> windows{1};
  for (const ReplayPoint& point : pass) windows.insert(retro_window(point.method.parameters));
  return {windows.begin(), windows.end()};
}

}  // namespace hindsight
