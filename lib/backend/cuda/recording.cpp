#include "backend/cuda/recording.h"

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

GraphRecording::GraphRecording(std::shared_ptr<Device> device)
    : device_(std::move(device)), begin_(*device_, Event::Timing::on), end_(*device_, Event::Timing::on) {}

GraphRecording::~GraphRecording() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void* GraphRecording::argument(Staging& staging, const void* values, int64_t bytes) {
  if (!capturing_) {
    arguments_.push_back(std::make_shared<DeviceMemory>(device_, bytes));
    staging.upload(arguments_.back()->data(), values, bytes);
    return arguments_.back()->data();
  }
  if (next_argument_ == arguments_.size() || arguments_[next_argument_]->bytes() != bytes)
    throw std::logic_error("the primitives of a recording differ from call to call");
  return arguments_[next_argument_++]->data();
}

void GraphRecording::capture(const std::function<void()>& set_up, const std::function<void()>& work) {
  device_->synchronize();
  capturing_ = true;
  Capture capture(device_->stream());
  set_up();
  begin_.record_in_graph(device_->stream());
  work();
  end_.record_in_graph(device_->stream());
  cuda_check(cudaGraphInstantiate(&graph_, capture.end(), 0));
  capturing_ = false;
}

double GraphRecording::replay_us() {
  device_->use();
  cuda_check(cudaGraphLaunch(graph_, device_->stream()));
  device_->synchronize();
  return end_.us_since(begin_);
}

}  // namespace hindsight::cuda
