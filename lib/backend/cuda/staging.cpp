#include "backend/cuda/staging.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "backend/cuda/check.h"

namespace hindsight::cuda {

Staging::Staging(std::shared_ptr<Device> device, cudaStream_t stream)
    : device_(std::move(device)), stream_(stream) {}

void Staging::upload(void* target, const void* source, int64_t bytes) {
  for (int64_t done = 0; done < bytes; done += slot_bytes)
    upload_piece(static_cast<std::byte*>(target) + done, static_cast<const std::byte*>(source) + done,
                 static_cast<size_t>(std::min(slot_bytes, bytes - done)));
}

void Staging::upload_piece(void* target, const void* source, size_t size) {
  device_->use();
  std::unique_ptr<Slot>& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  if (slot)
    slot->copied.wait();
  else
    slot = std::make_unique<Slot>(*device_);
  std::memcpy(slot->memory.data(), source, size);
  cuda_check(cudaMemcpyAsync(target, slot->memory.data(), size, cudaMemcpyHostToDevice, stream_));
  slot->copied.record(stream_);
}

void* SentArrays::send(Staging& staging, const void* values, int64_t bytes) {
  const auto* first = static_cast<const std::byte*>(values);
  for (Sent& sent : sent_)
    if (sent.memory && std::equal(first, first + bytes, sent.values.begin(), sent.values.end()))
      return sent.memory->data();
  // Replaced in the stream's order: whoever was given the old array has read it by then.
  Sent& sent = sent_[next_];
  next_ = (next_ + 1) % sent_.size();
  sent.values.clear();  // what follows may throw: until it is done, the slot holds nothing
  if (!sent.memory || sent.memory->bytes() < bytes)
    sent.memory = std::make_unique<DeviceMemory>(device_, bytes);
  staging.upload(sent.memory->data(), values, bytes);
  sent.values.assign(first, first + bytes);
  return sent.memory->data();
}

void Staging::download(void* target, const void* source, int64_t bytes) {
  device_->use();
  if (!landing_ && bytes > 0) landing_ = std::make_unique<PinnedMemory>(*device_, landing_bytes);
  for (int64_t done = 0; done < bytes; done += landing_bytes) {
    const auto size = static_cast<size_t>(std::min(landing_bytes, bytes - done));
    cuda_check(cudaMemcpyAsync(landing_->data(), static_cast<const std::byte*>(source) + done, size,
                               cudaMemcpyDeviceToHost, stream_));
    cuda_check(cudaStreamSynchronize(stream_));
    std::memcpy(static_cast<std::byte*>(target) + done, landing_->data(), size);
  }
  cuda_check(cudaStreamSynchronize(stream_));
}

}  // namespace hindsight::cuda
