#pragma once
// A device with a stream of its own, and owners of everything that CUDA hands out. Memory is allocated and
// freed in the stream's order, from a pool that keeps what was freed: cheap enough to allocate between
// kernels.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "kernels/kernels.h"

namespace hindsight::cuda {

/// Shared by everything that lives on the device, so that memory may outlive the backend.
class Device {
 public:
  /// Throws EnvironmentError where the device cannot be used.
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Makes the device current for the calling thread; all other members do so themselves.
  void use() const;
  cudaStream_t stream() const { return stream_; }
  void synchronize() const;
  /// Whether primitives enqueue: not while a recording takes new arguments.
  bool enqueues() const { return enqueues_; }
  void set_enqueues(bool enqueues) { enqueues_ = enqueues; }
  /// In the order of `stream`, to be freed in that of stream(). Throws EnvironmentError stating bytes wanted
  /// and free when there is not enough memory.
  void* allocate(int64_t bytes, cudaStream_t stream);
  void free(void* data) noexcept;
  /// Free on the device, or kept by the pool for reuse.
  int64_t available_bytes() const;

  int index() const { return index_; }
  int multiprocessors() const { return limits_.multiprocessors; }
  int64_t shared_bytes_per_block() const { return limits_.shared_bytes_per_block; }
  const kernels::DeviceLimits& limits() const { return limits_; }
  const std::string& name() const { return name_; }

 private:
  int index_ = 0;
  bool enqueues_ = true;
  kernels::DeviceLimits limits_{};
  std::string name_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
};

/// A stream beside the device's own.
class Stream {
 public:
  explicit Stream(const Device& device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// Device memory, freed in the order of the device's stream: what was done to it in another has ended by
/// then.
class DeviceMemory final : public Storage {
 public:
  DeviceMemory(std::shared_ptr<Device> device, int64_t bytes);
  /// Used in the order of another stream first.
  DeviceMemory(std::shared_ptr<Device> device, int64_t bytes, cudaStream_t stream);
  ~DeviceMemory() override;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  int64_t bytes_;
  void* data_;
};

/// Device memory that is kept between calls and only grows. What is in it is valid until the next call of
/// at_least.
class Scratch {
 public:
  explicit Scratch(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  void* at_least(int64_t bytes);
  /// What is held now: whoever keeps it may use it after it was replaced.
  std::shared_ptr<DeviceMemory> memory() const { return memory_; }

 private:
  std::shared_ptr<Device> device_;
  std::shared_ptr<DeviceMemory> memory_;
};

/// Page-locked host memory, which the device copies from while the host goes on.
class PinnedMemory {
 public:
  PinnedMemory(const Device& device, int64_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  void* data_ = nullptr;
};

/// A point in the stream.
class Event {
 public:
  enum class Timing { off, on };
  Event(const Device& device, Timing timing);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream);
  /// Into the graph that the stream is captured for: recorded whenever the graph runs.
  void record_in_graph(cudaStream_t stream);
  void wait() const;
  /// For destructors: of work that has failed, the next call hears too.
  void wait_quietly() const noexcept { cudaEventSynchronize(event_); }
  /// Microseconds from `earlier` to this one; both must have passed.
  double us_since(const Event& earlier) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace hindsight::cuda
