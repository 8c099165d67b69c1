#pragma once
// Layers and caches on the device, in the layouts of kernels/kernels.h.

#include <span>

#include "backend/cuda/device.h"
#include "backend/cuda/staging.h"
#include "kernels/kernels.h"

namespace hindsight::cuda {

/// Queries, keys and values of all sequences, packed one after another in the storage type.
class CudaLayer final : public Layer {
 public:
  /// Throws std::invalid_argument where the tensors of the batch do not match.
  CudaLayer(const std::shared_ptr<Device>& device, Staging& staging, std::span<const LayerTensors> batch);
  /// One that grows: it has room for no query yet, and keys and values only in its cache.
  CudaLayer(const std::shared_ptr<Device>& device, Staging& staging, const LayerShape& shape,
            std::span<const int64_t> capacities);
  int64_t bytes() const override;

  kernels::Heads heads() const;
  /// Memory of `rows` queries, and where the first row of a sequence is written down.
  void* queries_for(const std::shared_ptr<Device>& device, int64_t rows);
  int64_t* q_first_row() const { return static_cast<int64_t*>(q_first_row_->data()); }
  kernels::Queries queries() const;
  /// Null for a layer that grows, as v() and kv_first_row().
  const void* k() const { return k_ ? k_->data() : nullptr; }
  const void* v() const { return v_ ? v_->data() : nullptr; }
  /// Row of a sequence's token 0 in k and v.
  const int64_t* kv_first_row() const {
    return kv_first_row_ ? static_cast<const int64_t*>(kv_first_row_->data()) : nullptr;
  }

 private:
  std::unique_ptr<DeviceMemory> q_, k_, v_, q_first_row_, kv_first_row_;
};

/// A pool that can hold every token of the layer's sequences. Its free list is popped from the end, the
/// sequences taking turns, as they would in a serving engine: a sequence's pages are neither adjacent nor
/// ascending in the pool.
class CudaCache final : public KvCache {
 public:
  CudaCache(const std::shared_ptr<Device>& device, Staging& staging, const Layer& layer, int64_t page_size_);
  int64_t bytes() const override;
  int64_t summary_bytes() const override { return summaries_->bytes(); }
  kernels::PagedKv pages() const;

 private:
  std::unique_ptr<DeviceMemory> k_, v_, summaries_, table_;
};

kernels::ElementType element_type(DType dtype);

}  // namespace hindsight::cuda
