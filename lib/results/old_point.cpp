#include "results/old_point.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

namespace hindsight {
namespace {

/// Of the resolved configuration, where every setting stands on a line of its own.
int64_t batch_of(std::string_view yaml) {
  constexpr std::string_view key = "\nbatch: ";
  int64_t batch = 1;
  if (const size_t at = yaml.find(key); at != std::string_view::npos)
    std::from_chars(yaml.data() + at + key.size(), yaml.data() + yaml.size(), batch);
  return batch;
}

std::vector<int64_t>* integer_coordinate(PointResult& point, std::string_view name) {
  for (Coordinate& coordinate : point.coordinates)
    if (coordinate.name == name) return std::get_if<std::vector<int64_t>>(&coordinate.values);
  return nullptr;
}

}  // namespace

void complete_old_point(PointResult& point, const Provenance& provenance) {
  Protocol& protocol = point.protocol;
  for (const Series& series : point.series)
    (series.name.starts_with("latency_us_") ? protocol.latency : protocol.fidelity) = true;
  protocol.device = provenance.device;
  const auto* steps = integer_coordinate(point, "step");
  if (steps && !steps->empty()) point.steps = fmt::format("{}-{}", steps->front(), steps->back());
  if (!protocol.latency) return;
  if (const auto* repeats = integer_coordinate(point, "latency_repeat"))
    protocol.repeats = static_cast<int64_t>(repeats->size());
  protocol.batch = batch_of(provenance.resolved_yaml);
  auto* timed = integer_coordinate(point, "latency_step");
  if (!steps || steps->empty() || !timed) return;
  for (int64_t& step : *timed) step += steps->front();
}

}  // namespace hindsight
