#pragma once
// Host arrays on their way to the device, small ones without waiting, and back: they pass through page-locked
// memory; uploads through slots that are used in turn.

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "backend/cuda/device.h"

namespace hindsight::cuda {

class Staging {
 public:
  /// Copies in the order of `stream`, which outlives it.
  Staging(std::shared_ptr<Device> device, cudaStream_t stream);
  cudaStream_t stream() const { return stream_; }
  /// Copies in the stream's order; `source` may be freed on return. A large array goes piece by piece: while
  /// the device copies one, the host fills the next.
  void upload(void* target, const void* source, int64_t bytes);
  /// Waits for all work before it, and for the copy.
  void download(void* target, const void* source, int64_t bytes);

 private:
  void upload_piece(void* target, const void* source, size_t size);

  static constexpr int64_t slot_bytes = 256 * 1024, landing_bytes = 8 << 20;
  struct Slot {
    explicit Slot(const Device& device) : memory(device, slot_bytes), copied(device, Event::Timing::off) {}
    PinnedMemory memory;
    Event copied;  ///< the device has read the slot
  };
  std::shared_ptr<Device> device_;
  cudaStream_t stream_;
  std::array<std::unique_ptr<Slot>, 8> slots_;  ///< made when first needed
  size_t next_ = 0;
  std::unique_ptr<PinnedMemory> landing_;  ///< of downloads: to pageable memory they are several times slower
};

/// Small host arrays on the device. Layers of a model take the same arrays one after another: what was sent
/// lately is not sent again.
class SentArrays {
 public:
  explicit SentArrays(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  /// Where the array is, valid for what is enqueued before the next call.
  void* send(Staging& staging, const void* values, int64_t bytes);

 private:
  struct Sent {
    std::vector<std::byte> values;
    std::unique_ptr<DeviceMemory> memory;
  };
  std::shared_ptr<Device> device_;
  std::array<Sent, 8> sent_;
  size_t next_ = 0;
};

}  // namespace hindsight::cuda
