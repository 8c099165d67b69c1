#include "backend/cuda/staging.h"

#include <cstring>

#include "backend/cuda/check.h"

namespace hindsight::cuda {

Staging::Staging(std::shared_ptr<Device> device) : device_(std::move(device)) {}

void Staging::upload(void* target, const void* source, int64_t bytes) {
  if (bytes == 0) return;
  device_->use();
  const auto size = static_cast<size_t>(bytes);
  if (bytes > slot_bytes) {
    cuda_check(cudaMemcpyAsync(target, source, size, cudaMemcpyHostToDevice, device_->stream()));
    device_->synchronize();
    return;
  }
  std::unique_ptr<Slot>& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  if (slot)
    slot->copied.wait();
  else
    slot = std::make_unique<Slot>(*device_);
  std::memcpy(slot->memory.data(), source, size);
  cuda_check(cudaMemcpyAsync(target, slot->memory.data(), size, cudaMemcpyHostToDevice, device_->stream()));
  slot->copied.record(device_->stream());
}

}  // namespace hindsight::cuda
