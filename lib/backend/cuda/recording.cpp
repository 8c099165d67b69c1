#include "backend/cuda/recording.h"

#include <algorithm>
#include <stdexcept>

#include "backend/cuda/check.h"

namespace hindsight::cuda {
namespace {

/// The stream records from here on; whatever happens, it runs again in the end.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  }
  ~Capture() {
    if (stream_ != nullptr) cudaStreamEndCapture(stream_, &graph_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  cudaGraph_t end() {
    const cudaError_t status = cudaStreamEndCapture(stream_, &graph_);
    stream_ = nullptr;
    cuda_check(status);
    return graph_;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
};

}  // namespace

GraphRecording::GraphRecording(std::shared_ptr<Device> device, Staging& staging,
                               GraphRecording*& being_recorded)
    : device_(std::move(device)),
      staging_(staging),
      being_recorded_(being_recorded),
      begin_(*device_, Event::Timing::on),
      end_(*device_, Event::Timing::on) {}

GraphRecording::~GraphRecording() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void GraphRecording::in_state(State state, const std::function<void()>& work) {
  state_ = state;
  next_argument_ = 0;
  being_recorded_ = this;
  device_->set_enqueues(state != State::taking_arguments);
  const auto leave = [&] {
    being_recorded_ = nullptr;
    device_->set_enqueues(true);
  };
  try {
    work();
  } catch (...) {
    leave();
    throw;
  }
  leave();
  if (state != State::running && next_argument_ != arguments_.size())
    throw std::logic_error("the primitives of a recording differ from call to call");
}

void* GraphRecording::argument(const void* values, int64_t bytes) {
  const auto* const first = static_cast<const std::byte*>(values);
  if (state_ == State::running) {
    constexpr int64_t alignment = 256;
    const auto offset = static_cast<int64_t>(on_host_.size());
    on_host_.insert(on_host_.end(), first, first + bytes);
    on_host_.resize((on_host_.size() + alignment - 1) / alignment * alignment);
    arguments_.push_back({offset, bytes});
    // Where it will be is not known yet: for this once it has memory of its own.
    kept_.push_back(std::make_shared<DeviceMemory>(device_, bytes));
    staging_.upload(kept_.back()->data(), values, bytes);
    return kept_.back()->data();
  }
  if (next_argument_ == arguments_.size() || arguments_[next_argument_].bytes != bytes)
    throw std::logic_error("the primitives of a recording differ from call to call");
  const Argument& argument = arguments_[next_argument_++];
  if (state_ == State::taking_arguments) std::copy(first, first + bytes, on_host_.begin() + argument.offset);
  return static_cast<std::byte*>(memory_->data()) + argument.offset;
}

void GraphRecording::run(const std::function<void()>& set_up, const std::function<void()>& work) {
  in_state(State::running, [&] {
    set_up();
    work();
  });
  const auto bytes = static_cast<int64_t>(on_host_.size());
  memory_ = std::make_unique<DeviceMemory>(device_, bytes);
  staging_.upload(memory_->data(), on_host_.data(), bytes);
  device_->synchronize();
  kept_.clear();
}

void GraphRecording::capture(const std::function<void()>& set_up, const std::function<void()>& work) {
  device_->synchronize();
  Capture capture(device_->stream());
  in_state(State::capturing, [&] {
    set_up();
    begin_.record_in_graph(device_->stream());
    work();
    end_.record_in_graph(device_->stream());
  });
  cuda_check(cudaGraphInstantiate(&graph_, capture.end(), 0));
}

double GraphRecording::replay_us() {
  device_->use();
  cuda_check(cudaGraphLaunch(graph_, device_->stream()));
  device_->synchronize();
  return end_.us_since(begin_);
}

void GraphRecording::rerun(const std::function<void()>& set_up, const std::function<void()>& work) {
  in_state(State::taking_arguments, [&] {
    set_up();
    work();
  });
  staging_.upload(memory_->data(), on_host_.data(), static_cast<int64_t>(on_host_.size()));
  device_->use();
  cuda_check(cudaGraphLaunch(graph_, device_->stream()));
}

}  // namespace hindsight::cuda
