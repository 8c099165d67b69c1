#pragma once
// Primitives recorded as a CUDA graph. Small arrays that primitives take from the host are kept on the
// device, so that a replay copies nothing.

#include <functional>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/staging.h"

namespace hindsight::cuda {

class GraphRecording final : public Recording {
 public:
  explicit GraphRecording(std::shared_ptr<Device> device);
  ~GraphRecording() override;
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  /// The next argument of a primitive. Before capture() it is uploaded and kept; within, the array that was
  /// kept in its place. Throws std::logic_error where the primitives differ from those before.
  void* argument(Staging& staging, const void* values, int64_t bytes);
  /// Calls both functions while the stream records instead of running.
  void capture(const std::function<void()>& set_up, const std::function<void()>& work);
  /// Holds memory for as long as the graph may read it.
  void keep(std::shared_ptr<DeviceMemory> memory) { kept_.push_back(std::move(memory)); }

  double replay_us() override;

 private:
  std::shared_ptr<Device> device_;
  std::vector<std::shared_ptr<DeviceMemory>> arguments_, kept_;
  size_t next_argument_ = 0;
  bool capturing_ = false;
  Event begin_, end_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace hindsight::cuda
