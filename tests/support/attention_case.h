#pragma once
// Random layers, and attention computed from its definition: sums over explicit token sets in double, sharing
// no code with the backends.

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "backend/backend.h"
#include "core/dtype.h"
#include "trace/trace.h"

namespace hindsight::test {

struct CaseShape {
  int64_t n_tokens = 75, prompt_tokens = 40;
  int64_t n_kv_heads = 2, group = 4, head_dim = 16;
  DType dtype = DType::float32;
  double query_norm = 1;  ///< larger: larger logits
  uint64_t seed = 1;
};

/// Normal values, rounded to the storage type. Keys drift, so that page sets of neighbouring steps differ but
/// overlap.
inline LayerTensors random_layer(const CaseShape& shape) {
  std::mt19937_64 generator(shape.seed);
  std::normal_distribution<float> normal;
  LayerTensors layer;
  layer.layer = 3;
  layer.dtype = shape.dtype;
  layer.n_tokens = shape.n_tokens;
  layer.q_start = shape.prompt_tokens;
  layer.n_q_heads = shape.n_kv_heads * shape.group;
  layer.n_kv_heads = shape.n_kv_heads;
  layer.head_dim = shape.head_dim;
  layer.softmax_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  const auto fill = [&](std::vector<std::byte>& target, int64_t rows, int64_t heads, double norm) {
    std::vector<float> values(static_cast<size_t>(rows * heads * shape.head_dim));
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < heads * shape.head_dim; ++i)
        values[row * heads * shape.head_dim + i] =
            static_cast<float>(norm) * (normal(generator) + std::sin(0.11f * static_cast<float>(row + i)));
    target.resize(values.size() * static_cast<size_t>(size_of(shape.dtype)));
    from_float(shape.dtype, values, target);
  };
  fill(layer.k, shape.n_tokens, shape.n_kv_heads, 1);
  fill(layer.v, shape.n_tokens, shape.n_kv_heads, 1);
  fill(layer.q, shape.n_tokens - shape.prompt_tokens, layer.n_q_heads, shape.query_norm);
  return layer;
}

/// One head whose query at the last position, the only one, meets token t with the logit logits[t].
inline LayerTensors layer_of_logits(const std::vector<float>& logits, int64_t head_dim = 64) {
  LayerTensors layer;
  layer.n_tokens = static_cast<int64_t>(logits.size());
  layer.q_start = layer.n_tokens - 1;
  layer.n_q_heads = layer.n_kv_heads = 1;
  layer.head_dim = head_dim;
  layer.softmax_scale = 1;
  std::vector<float> keys(logits.size() * static_cast<size_t>(head_dim), 0.0f);
  for (size_t token = 0; token < logits.size(); ++token) keys[token * head_dim] = logits[token];
  std::vector<float> query(static_cast<size_t>(head_dim), 0.0f);
  query[0] = 1;
  layer.k.resize(keys.size() * sizeof(float));
  from_float(DType::float32, keys, layer.k);
  layer.v = layer.k;
  layer.q.resize(query.size() * sizeof(float));
  from_float(DType::float32, query, layer.q);
  return layer;
}

/// A layer widened to double.
struct WideLayer {
  explicit WideLayer(const LayerTensors& tensors) : t(tensors), k(widen(t.k)), v(widen(t.v)), q(widen(t.q)) {}
  const double* key(int64_t token, int64_t kv_head) const {
    return &k[(token * t.n_kv_heads + kv_head) * t.head_dim];
  }
  const double* value(int64_t token, int64_t kv_head) const {
    return &v[(token * t.n_kv_heads + kv_head) * t.head_dim];
  }
  const double* query(int64_t position, int64_t q_head) const {
    return &q[((position - t.q_start) * t.n_q_heads + q_head) * t.head_dim];
  }
  int64_t group() const { return t.n_q_heads / t.n_kv_heads; }

  LayerTensors t;
  std::vector<double> k, v, q;

 private:
  std::vector<double> widen(const std::vector<std::byte>& stored) const {
    std::vector<double> wide(stored.size() / static_cast<size_t>(size_of(t.dtype)));
    to_double(t.dtype, stored, wide);
    return wide;
  }
};

struct Attended {
  std::vector<double> out;
  double lse = -std::numeric_limits<double>::infinity();
  double norm() const {
    double sum = 0;
    for (const double x : out) sum += x * x;
    return std::sqrt(sum);
  }
};

/// softmax(scale * q K^T) V of one head over exactly these tokens; none: 0 and -inf.
inline Attended attend_tokens(const WideLayer& layer, int64_t position, int64_t q_head,
                              const std::set<int64_t>& tokens) {
  const int64_t d = layer.t.head_dim, kv_head = q_head / layer.group();
  Attended result;
  result.out.assign(static_cast<size_t>(d), 0.0);
  std::vector<double> logits;
  double largest = -std::numeric_limits<double>::infinity();
  for (const int64_t token : tokens) {
    double dot = 0;
    for (int64_t c = 0; c < d; ++c) dot += layer.query(position, q_head)[c] * layer.key(token, kv_head)[c];
    logits.push_back(dot * layer.t.softmax_scale);
    largest = std::max(largest, logits.back());
  }
  if (tokens.empty()) return result;
  double sum = 0;
  size_t i = 0;
  for (const int64_t token : tokens) {
    const double weight = std::exp(logits[i++] - largest);
    sum += weight;
    for (int64_t c = 0; c < d; ++c) result.out[c] += weight * layer.value(token, kv_head)[c];
  }
  for (double& x : result.out) x /= sum;
  result.lse = largest + std::log(sum);
  return result;
}

/// Tokens of the pages that are not after a position.
inline std::set<int64_t> tokens_of(const std::set<int32_t>& pages, int64_t page_size, int64_t position) {
  std::set<int64_t> tokens;
  for (const int32_t page : pages)
    for (int64_t token = page * page_size; token < (page + 1) * page_size && token <= position; ++token)
      tokens.insert(token);
  return tokens;
}

/// Absolute and relative tolerance of a result computed in float from inputs in the storage type, against
/// double.
constexpr double float_tolerance = 2e-5;

}  // namespace hindsight::test
