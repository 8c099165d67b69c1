#pragma once
// Downloads that are enqueued and waited for later: each lands in page-locked memory of its own.

#include <memory>
#include <mutex>
#include <vector>

#include "backend/cuda/device.h"

namespace hindsight::cuda {

/// Keeps memory that downloads have landed in for the next ones: to lock pages takes longer than a copy.
class Landings : public std::enable_shared_from_this<Landings> {
 public:
  explicit Landings(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  /// Enqueues the copy in the order of the device's stream.
  std::unique_ptr<Transfer> begin(const void* source, int64_t bytes);

 private:
  class LandingTransfer;
  struct Landing {
    Landing(const Device& device, int64_t bytes)
        : memory(device, bytes), arrived(device, Event::Timing::off) {}
    PinnedMemory memory;
    Event arrived;
  };
  std::unique_ptr<Landing> take(int64_t bytes);
  void give_back(std::unique_ptr<Landing> landing);

  std::shared_ptr<Device> device_;
  std::mutex mutex_;  ///< of free_: transfers end on other threads
  std::vector<std::unique_ptr<Landing>> free_;
};

}  // namespace hindsight::cuda
