#include "backend/cuda/landings.h"

#include <algorithm>
#include <utility>

#include "backend/cuda/check.h"

namespace hindsight::cuda {

class Landings::LandingTransfer final : public Transfer {
 public:
  LandingTransfer(std::shared_ptr<Landings> landings, std::unique_ptr<Landing> landing, int64_t bytes)
      : landings_(std::move(landings)), landing_(std::move(landing)), bytes_(bytes) {}
  ~LandingTransfer() override {
    landing_->arrived.wait_quietly();
    landings_->give_back(std::move(landing_));
  }
  std::span<const std::byte> wait() override {
    landings_->device_->use();
    landing_->arrived.wait();
    return {static_cast<const std::byte*>(landing_->memory.data()), static_cast<size_t>(bytes_)};
  }

 private:
  std::shared_ptr<Landings> landings_;
  std::unique_ptr<Landing> landing_;
  int64_t bytes_;
};

std::unique_ptr<Transfer> Landings::begin(const void* source, int64_t bytes) {
  device_->use();
  std::unique_ptr<Landing> landing = take(bytes);
  cuda_check(cudaMemcpyAsync(landing->memory.data(), source, static_cast<size_t>(bytes),
                             cudaMemcpyDeviceToHost, device_->stream()));
  landing->arrived.record(device_->stream());
  return std::make_unique<LandingTransfer>(shared_from_this(), std::move(landing), bytes);
}

std::unique_ptr<Landings::Landing> Landings::take(int64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto smallest = std::ranges::min_element(free_, {}, [&](const auto& free) {
      return std::pair{free->memory.bytes() < bytes, free->memory.bytes()};
    });
    if (smallest != free_.end() && (*smallest)->memory.bytes() >= bytes) {
      std::unique_ptr<Landing> landing = std::move(*smallest);
      free_.erase(smallest);
      return landing;
    }
  }
  // It may take long; others may give back meanwhile.
  return std::make_unique<Landing>(*device_, bytes);
}

void Landings::give_back(std::unique_ptr<Landing> landing) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(landing));
}

}  // namespace hindsight::cuda
