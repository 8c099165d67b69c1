#pragma once
// Stopwatch by events in the stream.

#include "backend/cuda/device.h"

namespace hindsight::cuda {

class EventStopwatch final : public Stopwatch {
 public:
  explicit EventStopwatch(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  void mark() override;
  std::vector<double> intervals_us() override;

 private:
  std::shared_ptr<Device> device_;
  std::vector<std::unique_ptr<Event>> events_;  ///< kept for reuse
  size_t marks_ = 0;
};

}  // namespace hindsight::cuda
