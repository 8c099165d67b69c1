#include "results/protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace hindsight {
namespace {

/// Of evaluations; anything else measured is a replay's.
constexpr std::array<const char*, 2> modes{"teacher_forced", "generate"};

std::string measurements_of(const Protocol& protocol, const char* separator) {
  if (!protocol.mode.empty())
    return protocol.mode + (protocol.recall ? separator + std::string("recall") : "");
  std::string text = protocol.fidelity ? "fidelity" : "";
  if (protocol.latency) text += (text.empty() ? "" : separator) + std::string("latency");
  return text;
}

}  // namespace

bool agree(Protocol a, Protocol b) {
  for (std::string* device : {&a.device, &b.device}) {
    if (device->starts_with("cuda:")) device->erase(0, std::min(device->find(' '), device->size()));
    if (!a.latency && !b.latency) device->resize(std::min(device->find(','), device->size()));
  }
  return a == b;
}

std::string described(const Protocol& protocol) {
  std::string text = measurements_of(protocol, ", ");
  if (protocol.latency) text += fmt::format(" (repeats {}, batch {})", protocol.repeats, protocol.batch);
  if (protocol.average_steps > 1) text += fmt::format(" (means of {} steps)", protocol.average_steps);
  return text + " on " + protocol.device;
}

void write_protocol(const h5::Id& point, const Protocol& protocol) {
  h5::write_string(point, "measurements", measurements_of(protocol, " "));
  h5::write_string(point, "device", protocol.device);
  if (protocol.average_steps > 1) h5::write_integer(point, "average_steps", protocol.average_steps);
  if (!protocol.latency) return;
  h5::write_integer(point, "repeats", protocol.repeats);
  h5::write_integer(point, "batch", protocol.batch);
}

Protocol read_protocol(const h5::Id& point) {
  const std::string measurements = h5::read_string(point, "measurements");
  Protocol protocol;
  const std::string first = measurements.substr(0, measurements.find(' '));
  if (std::find(modes.begin(), modes.end(), first) != modes.end()) {
    protocol.mode = first;
    protocol.recall = measurements.find("recall") != std::string::npos;
  }
  protocol.fidelity = measurements.find("fidelity") != std::string::npos;
  protocol.latency = measurements.find("latency") != std::string::npos;
  protocol.device = h5::read_string(point, "device");
  if (h5::has_attribute(point, "average_steps"))
    protocol.average_steps = h5::read_integer(point, "average_steps");
  if (!protocol.latency) return protocol;
  protocol.repeats = h5::read_integer(point, "repeats");
  protocol.batch = h5::read_integer(point, "batch");
  return protocol;
}

}  // namespace hindsight
