#pragma once
// A layer for benchmarks: keys and values at random, queries that drift, so that steps share most of their
// pages.

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "trace/trace.h"

namespace hindsight {

struct DriftingShape {
  int64_t n_tokens, n_queries;  ///< the last n_queries tokens have queries
  int64_t n_q_heads, n_kv_heads, head_dim;
  float query_deviation =
      1;  ///< of a query's elements, and so of logits: 3 gives a few hundred tokens most of the mass
};

/// q [n_queries, Hq, d], k and v [n_tokens, Hkv, d] in bfloat16; the same every time.
inline LayerTensors drifting_layer(const DriftingShape& shape) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> noise(1 << 20);
  for (float& value : noise) value = normal(generator);
  const auto store = [](const std::vector<float>& values) {
    std::vector<std::byte> stored(values.size() * 2);
    from_float(DType::bfloat16, values, stored);
    return stored;
  };
  const auto fill = [&](int64_t rows) {
    std::vector<float> values(static_cast<size_t>(rows * shape.head_dim));
    // Another place of the noise for every row: the generator is slow, and contexts are long.
    for (int64_t row = 0; row < rows; ++row)
      std::copy_n(noise.begin() + static_cast<int64_t>(generator() %
                                                       (noise.size() - static_cast<size_t>(shape.head_dim))),
                  shape.head_dim, values.begin() + row * shape.head_dim);
    return store(values);
  };
  LayerTensors tensors;
  tensors.dtype = DType::bfloat16;
  tensors.n_tokens = shape.n_tokens;
  tensors.q_start = shape.n_tokens - shape.n_queries;
  tensors.n_q_heads = shape.n_q_heads;
  tensors.n_kv_heads = shape.n_kv_heads;
  tensors.head_dim = shape.head_dim;
  tensors.softmax_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  tensors.k = fill(shape.n_tokens * shape.n_kv_heads);
  tensors.v = fill(shape.n_tokens * shape.n_kv_heads);
  std::vector<float> queries, query(static_cast<size_t>(shape.n_q_heads * shape.head_dim));
  for (float& value : query) value = shape.query_deviation * normal(generator);
  for (int64_t t = 0; t < shape.n_queries; ++t)
    for (float& value : query) {
      value = 0.95f * value + 0.31f * shape.query_deviation * normal(generator);
      queries.push_back(value);
    }
  tensors.q = store(queries);
  return tensors;
}

}  // namespace hindsight
