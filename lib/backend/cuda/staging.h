#pragma once
// Host arrays on their way to the device, small ones without waiting, and back: they pass through page-locked
// memory; uploads through slots that are used in turn.

#include <array>
#include <memory>

#include "backend/cuda/device.h"

namespace hindsight::cuda {

class Staging {
 public:
  explicit Staging(std::shared_ptr<Device> device);
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
  std::array<std::unique_ptr<Slot>, 8> slots_;  ///< made when first needed
  size_t next_ = 0;
  std::unique_ptr<PinnedMemory> landing_;  ///< of downloads: to pageable memory they are several times slower
};

}  // namespace hindsight::cuda
