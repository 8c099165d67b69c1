#include "backend/cuda/residency.h"

#include <algorithm>
#include <stdexcept>

namespace hindsight::cuda {
namespace {

std::unique_ptr<DeviceMemory> make_memory(const std::shared_ptr<Device>& device, const Staging& staging,
                                          int64_t bytes) {
  return std::make_unique<DeviceMemory>(device, bytes, staging.stream());
}

template <class T>
int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

template <class T>
void upload(Staging& staging, const DeviceMemory& target, const std::vector<T>& values) {
  staging.upload(target.data(), values.data(), bytes_of(values));
}

/// One of the three arrays of every sequence, one after another.
void pack(Staging& staging, const DeviceMemory& memory, std::span<const LayerTensors> batch,
          std::vector<std::byte> LayerTensors::*array) {
  auto* target = static_cast<std::byte*>(memory.data());
  for (const LayerTensors& tensors : batch) {
    const auto& values = tensors.*array;
    staging.upload(target, values.data(), bytes_of(values));
    target += values.size();
  }
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
  // All memory before the first copy: what is freed because there is not enough must have been of no use yet.
  const int64_t row_bytes = head_dim * size_of(dtype);
  q_ = make_memory(device, staging, q_rows * n_q_heads * row_bytes);
  k_ = make_memory(device, staging, kv_rows * n_kv_heads * row_bytes);
  v_ = make_memory(device, staging, k_->bytes());
  q_first_row_ = make_memory(device, staging, bytes_of(q_first_row));
  kv_first_row_ = make_memory(device, staging, bytes_of(kv_first_row));
  pack(staging, *q_, batch, &LayerTensors::q);
  pack(staging, *k_, batch, &LayerTensors::k);
  pack(staging, *v_, batch, &LayerTensors::v);
  upload(staging, *q_first_row_, q_first_row);
  upload(staging, *kv_first_row_, kv_first_row);
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
  q_first_row_ = make_memory(device, staging, bytes_of(q_start));
  upload(staging, *q_first_row_, q_start);  // zeros
}

void* CudaLayer::queries_for(const std::shared_ptr<Device>& device, int64_t rows) {
  const int64_t needed = rows * n_q_heads * head_dim * size_of(dtype);
  if (!q_ || q_->bytes() < needed) q_ = std::make_unique<DeviceMemory>(device, needed);
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
  k_ = make_memory(device, staging, pool_pages * page_bytes);
  v_ = make_memory(device, staging, pool_pages * page_bytes);
  summaries_ = make_memory(device, staging, pool_pages * summary_bytes);
  table_ = make_memory(device, staging, bytes_of(table));
  upload(staging, *table_, table);
}

int64_t CudaCache::bytes() const { return k_->bytes() + v_->bytes() + summaries_->bytes() + table_->bytes(); }

kernels::PagedKv CudaCache::pages() const {
  return {k_->data(),         v_->data(),
          summaries_->data(), static_cast<const int32_t*>(table_->data()),
          max_pages,          static_cast<int32_t>(page_size)};
}

}  // namespace hindsight::cuda
