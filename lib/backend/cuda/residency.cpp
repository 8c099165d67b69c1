#include "backend/cuda/residency.h"

#include <algorithm>
#include <stdexcept>

namespace hindsight::cuda {
namespace {

std::unique_ptr<DeviceMemory> make_memory(const std::shared_ptr<Device>& device, int64_t bytes) {
  return std::make_unique<DeviceMemory>(device, bytes);
}

template <class T>
std::unique_ptr<DeviceMemory> upload_all(const std::shared_ptr<Device>& device, Staging& staging,
                                         const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  auto memory = make_memory(device, bytes);
  staging.upload(memory->data(), values.data(), bytes);
  return memory;
}

/// One of the three arrays of every sequence, one after another.
std::unique_ptr<DeviceMemory> pack(const std::shared_ptr<Device>& device, Staging& staging,
                                   std::span<const LayerTensors> batch,
                                   std::vector<std::byte> LayerTensors::*array) {
  int64_t bytes = 0;
  for (const LayerTensors& tensors : batch) bytes += static_cast<int64_t>((tensors.*array).size());
  auto memory = make_memory(device, bytes);
  auto* target = static_cast<std::byte*>(memory->data());
  for (const LayerTensors& tensors : batch) {
    const auto& values = tensors.*array;
    staging.upload(target, values.data(), static_cast<int64_t>(values.size()));
    target += values.size();
  }
  return memory;
}

}  // namespace

kernels::ElementType element_type(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return kernels::ElementType::float16;
    case DType::bfloat16:
      return kernels::ElementType::bfloat16;
    case DType::float32:
      return kernels::ElementType::float32;
  }
  throw std::invalid_argument("unknown storage type");
}

CudaLayer::CudaLayer(const std::shared_ptr<Device>& device, Staging& staging,
                     std::span<const LayerTensors> batch) {
  if (batch.empty()) throw std::invalid_argument("a layer needs one sequence at least");
  const LayerTensors& first = batch.front();
  layer = first.layer;
  n_q_heads = first.n_q_heads;
  n_kv_heads = first.n_kv_heads;
  head_dim = first.head_dim;
  scale = first.softmax_scale;
  dtype = first.dtype;
  std::vector<int64_t> q_first_row, kv_first_row;
  int64_t q_rows = 0, kv_rows = 0;
  for (const LayerTensors& tensors : batch) {
    if (tensors.layer != layer || tensors.n_q_heads != n_q_heads || tensors.n_kv_heads != n_kv_heads ||
        tensors.head_dim != head_dim || tensors.softmax_scale != scale || tensors.dtype != dtype)
      throw std::invalid_argument("the sequences of a batch differ in layer, heads, scale or type");
    const auto row_bytes = static_cast<size_t>(head_dim * size_of(dtype));
    if (tensors.k.size() != static_cast<size_t>(tensors.n_tokens * n_kv_heads) * row_bytes ||
        tensors.v.size() != tensors.k.size() ||
        tensors.q.size() != static_cast<size_t>((tensors.n_tokens - tensors.q_start) * n_q_heads) * row_bytes)
      throw std::invalid_argument("a layer's arrays do not have the sizes that its shape says");
    n_tokens.push_back(tensors.n_tokens);
    q_start.push_back(tensors.q_start);
    q_first_row.push_back(q_rows - tensors.q_start);
    kv_first_row.push_back(kv_rows);
    q_rows += tensors.n_tokens - tensors.q_start;
    kv_rows += tensors.n_tokens;
  }
  q_ = pack(device, staging, batch, &LayerTensors::q);
  k_ = pack(device, staging, batch, &LayerTensors::k);
  v_ = pack(device, staging, batch, &LayerTensors::v);
  q_first_row_ = upload_all(device, staging, q_first_row);
  kv_first_row_ = upload_all(device, staging, kv_first_row);
}

CudaLayer::CudaLayer(const std::shared_ptr<Device>& device, Staging& staging, const LayerShape& shape,
                     std::span<const int64_t> capacities) {
  if (capacities.empty()) throw std::invalid_argument("a layer needs one sequence at least");
  layer = shape.layer;
  n_q_heads = shape.n_q_heads;
  n_kv_heads = shape.n_kv_heads;
  head_dim = shape.head_dim;
  scale = shape.scale;
  dtype = shape.dtype;
  n_tokens.assign(capacities.begin(), capacities.end());
  q_start.assign(capacities.size(), 0);
  q_first_row_ = upload_all(device, staging, std::vector<int64_t>(capacities.size(), 0));
}

void* CudaLayer::queries_for(const std::shared_ptr<Device>& device, int64_t rows) {
  const int64_t needed = rows * n_q_heads * head_dim * size_of(dtype);
  if (!q_ || q_->bytes() < needed) q_ = make_memory(device, needed);
  return q_->data();
}

int64_t CudaLayer::bytes() const {
  int64_t total = 0;
  for (const auto* memory : {&q_, &k_, &v_})
    if (*memory) total += (*memory)->bytes();
  return total;
}

kernels::Heads CudaLayer::heads() const {
  return {element_type(dtype), static_cast<int32_t>(n_q_heads), static_cast<int32_t>(n_kv_heads),
          static_cast<int32_t>(head_dim)};
}

kernels::Queries CudaLayer::queries() const {
  if (!q_) throw std::invalid_argument("a layer has no queries yet");
  // A layer that grows has its rows written down by a kernel, set_queries.
  return {q_->data(), q_first_row(), k_ != nullptr};
}

CudaCache::CudaCache(const std::shared_ptr<Device>& device, Staging& staging, const Layer& layer,
                     int64_t page_size_) {
  page_size = page_size_;
  n_appended.assign(layer.n_tokens.size(), 0);
  int64_t pool_pages = 0;
  for (int64_t tokens : layer.n_tokens) {
    const int64_t pages = (tokens + page_size - 1) / page_size;
    max_pages = std::max(max_pages, pages);
    pool_pages += pages;
  }

  const auto n_sequences = static_cast<int64_t>(layer.n_tokens.size());
  std::vector<int32_t> table(static_cast<size_t>(n_sequences * max_pages), 0);
  auto free_page = static_cast<int32_t>(pool_pages);
  for (int64_t page = 0; page < max_pages; ++page)
    for (int64_t s = 0; s < n_sequences; ++s)
      if (page * page_size < layer.n_tokens[s]) table[s * max_pages + page] = --free_page;

  const int64_t page_bytes = layer.n_kv_heads * page_size * layer.head_dim * size_of(layer.dtype);
  const int64_t summary_bytes = layer.n_kv_heads * 2 * layer.head_dim * size_of(layer.dtype);
  k_ = make_memory(device, pool_pages * page_bytes);
  v_ = make_memory(device, pool_pages * page_bytes);
  summaries_ = make_memory(device, pool_pages * summary_bytes);
  table_ = upload_all(device, staging, table);
}

int64_t CudaCache::bytes() const { return k_->bytes() + v_->bytes() + summaries_->bytes() + table_->bytes(); }

kernels::PagedKv CudaCache::pages() const {
  return {k_->data(),         v_->data(),
          summaries_->data(), static_cast<const int32_t*>(table_->data()),
          max_pages,          static_cast<int32_t>(page_size)};
}

}  // namespace hindsight::cuda
