#pragma once
// Primitives recorded as a CUDA graph. Small arrays that primitives take from the host lie one after another
// in memory of the recording: a replay copies none of them, and new ones are copied all at once.

#include <cstddef>
#include <functional>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/staging.h"

namespace hindsight::cuda {

class GraphRecording final : public Recording {
 public:
  /// `being_recorded` points to this recording while it takes arguments, and is null else. It and `staging`
  /// outlive the recording.
  GraphRecording(std::shared_ptr<Device> device, Staging& staging, GraphRecording*& being_recorded);
  ~GraphRecording() override;
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  /// Calls both functions as they are, and notes the arguments. Memory that primitives need is there then,
  /// before the graph, which cannot wait for it.
  void run(const std::function<void()>& set_up, const std::function<void()>& work);
  /// Calls both functions while the stream records instead of running.
  void capture(const std::function<void()>& set_up, const std::function<void()>& work);
  /// The next argument of a primitive. Throws std::logic_error where the primitives differ from those before.
  void* argument(const void* values, int64_t bytes);
  /// Holds memory for as long as the graph may read it.
  void keep(std::shared_ptr<DeviceMemory> memory) { kept_.push_back(std::move(memory)); }

  double replay_us() override;
  void rerun(const std::function<void()>& set_up, const std::function<void()>& work) override;

 private:
  enum class State { running, capturing, taking_arguments };
  struct Argument {
    int64_t offset, bytes;
  };
  /// Calls `work` in this state.
  void in_state(State state, const std::function<void()>& work);

  std::shared_ptr<Device> device_;
  Staging& staging_;
  GraphRecording*& being_recorded_;
  State state_ = State::running;
  std::vector<Argument> arguments_;
  std::vector<std::byte> on_host_;        ///< all arguments
  std::unique_ptr<DeviceMemory> memory_;  ///< the same on the device
  std::vector<std::shared_ptr<DeviceMemory>> kept_;
  size_t next_argument_ = 0;
  Event begin_, end_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace hindsight::cuda
