#include "backend/cuda/device.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend/cuda/check.h"
#include "core/error.h"

namespace hindsight::cuda {

Device::Device(int index) : index_(index) {
  use();
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, index));
  name_ = properties.name;
  limits_ = {10 * properties.major + properties.minor, properties.multiProcessorCount,
             static_cast<int64_t>(properties.sharedMemPerBlockOptin),
             static_cast<int64_t>(properties.sharedMemPerMultiprocessor)};

  cudaMemPoolProps pool{};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location.type = cudaMemLocationTypeDevice;
  pool.location.id = index;
  cuda_check(cudaMemPoolCreate(&pool_, &pool));
  try {
    uint64_t keep_all = UINT64_MAX;
    cuda_check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  } catch (...) {
    cudaMemPoolDestroy(pool_);
    throw;
  }
}

Device::~Device() {
  if (cudaSetDevice(index_) != cudaSuccess) return;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
  cudaMemPoolDestroy(pool_);
}

void Device::use() const { cuda_check(cudaSetDevice(index_)); }

void Device::synchronize() const {
  use();
  cuda_check(cudaStreamSynchronize(stream_));
}

void* Device::allocate(int64_t bytes, cudaStream_t stream) {
  if (bytes == 0) return nullptr;
  use();
  void* data = nullptr;
  cudaError_t status = cudaMallocFromPoolAsync(&data, static_cast<size_t>(bytes), pool_, stream);
  if (status == cudaErrorMemoryAllocation) {
    // What the pool keeps may be in pieces that are too small, or wait for the work before it was freed.
    cudaGetLastError();
    synchronize();
    cuda_check(cudaMemPoolTrimTo(pool_, 0));
    status = cudaMallocFromPoolAsync(&data, static_cast<size_t>(bytes), pool_, stream);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    // What was allocated before in this stream is about to be freed in the order of the device's.
    cudaStreamSynchronize(stream);
    throw EnvironmentError(fmt::format(
        "out of memory on cuda:{}: {} bytes could not be allocated, {} are free; replay fewer layers, steps "
        "or sequences at a time, or use --device cpu",
        index_, bytes, available_bytes()));
  }
  cuda_check(status);
  return data;
}

void Device::free(void* data) noexcept {
  if (!data || cudaSetDevice(index_) != cudaSuccess) return;
  cudaFreeAsync(data, stream_);
}

int64_t Device::available_bytes() const {
  use();
  size_t free_bytes = 0, total_bytes = 0;
  cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes));
  uint64_t reserved = 0, used = 0;
  cuda_check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
  cuda_check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used));
  return static_cast<int64_t>(free_bytes + reserved - used);
}

Stream::Stream(const Device& device) {
  device.use();
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}
Stream::~Stream() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}
void Stream::synchronize() const { cuda_check(cudaStreamSynchronize(stream_)); }

DeviceMemory::DeviceMemory(std::shared_ptr<Device> device, int64_t bytes)
    : DeviceMemory(device, bytes, device->stream()) {}
DeviceMemory::DeviceMemory(std::shared_ptr<Device> device, int64_t bytes, cudaStream_t stream)
    : device_(std::move(device)), bytes_(bytes), data_(device_->allocate(bytes, stream)) {}
DeviceMemory::~DeviceMemory() { device_->free(data_); }

void* Scratch::at_least(int64_t bytes) {
  if (!memory_ || memory_->bytes() < bytes) {
    const int64_t doubled = memory_ ? 2 * memory_->bytes() : 0;
    memory_.reset();  // before the larger one is allocated: they need not fit side by side
    memory_ = std::make_shared<DeviceMemory>(device_, std::max(bytes, doubled));
  }
  return memory_->data();
}

PinnedMemory::PinnedMemory(const Device& device, int64_t bytes) : bytes_(bytes) {
  device.use();
  cuda_check(cudaHostAlloc(&data_, static_cast<size_t>(bytes), cudaHostAllocDefault));
}
PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

Event::Event(const Device& device, Timing timing) {
  device.use();
  cuda_check(
      cudaEventCreateWithFlags(&event_, timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming));
}
Event::~Event() { cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) { cuda_check(cudaEventRecord(event_, stream)); }
void Event::record_in_graph(cudaStream_t stream) {
  cuda_check(cudaEventRecordWithFlags(event_, stream, cudaEventRecordExternal));
}
void Event::wait() const { cuda_check(cudaEventSynchronize(event_)); }
double Event::us_since(const Event& earlier) const {
  float milliseconds = 0;
  cuda_check(cudaEventElapsedTime(&milliseconds, earlier.event_, event_));
  return 1000.0 * milliseconds;
}

}  // namespace hindsight::cuda
