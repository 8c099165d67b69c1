#pragma once
// Random batches, blocks and page lists for tests that run one primitive on two backends, and the comparison
// of what comes out.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "support/attention_case.h"

namespace hindsight::test {

struct Tolerance {
  double absolute, relative;
};
// Inputs are rounded to the storage type before either backend sees them, and both accumulate wider than
// that: what differs is float against double, whatever the type.
constexpr Tolerance attention_tolerance{3e-5, 3e-5};
constexpr Tolerance score_tolerance{2e-4, 2e-5};
/// Logits of a thousand are rounded to 1e-4 in float before the exponential.
constexpr Tolerance large_logit_tolerance{3e-3, 3e-3};
/// Scores rounded to the storage type may land on either side of a tie: one unit in the last place.
constexpr Tolerance rounded_score_tolerance(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return {2e-3, 0x1p-10};
    case DType::bfloat16:
      return {2e-2, 0x1p-7};
    default:
      return score_tolerance;
  }
}

/// Every element; infinities must agree, NaN never passes.
inline void expect_close(const char* what, const std::vector<float>& actual,
                         const std::vector<float>& expected, Tolerance tolerance) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  int64_t wrong = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = actual[i], e = expected[i];
    const bool close =
        std::isinf(e) ? a == e : std::abs(a - e) <= tolerance.absolute + tolerance.relative * std::abs(e);
    if (!close && wrong++ == 0)
      ADD_FAILURE() << what << "[" << i << "] of " << actual.size() << ": " << a << ", expected " << e;
  }
  EXPECT_EQ(wrong, 0) << what << ": elements out of tolerance";
}

struct BatchShape {
  std::vector<int64_t> n_tokens, prompt_tokens;  ///< per sequence
  int64_t n_kv_heads = 2, group = 4, head_dim = 64, page_size = 16;
  DType dtype = DType::float16;
  double query_norm = 1;
  uint64_t seed = 1;
};

/// A shape within the limits of the CUDA backend; lengths are odd and pages do not divide them.
inline BatchShape random_batch_shape(uint64_t seed, int64_t longest) {
  std::mt19937_64 generator(seed);
  const auto pick = [&](auto... values) {
    const std::vector<int64_t> choices{static_cast<int64_t>(values)...};
    return choices[generator() % choices.size()];
  };
  BatchShape shape;
  shape.seed = seed;
  shape.dtype = static_cast<DType>(pick(DType::float16, DType::bfloat16, DType::float32));
  shape.head_dim = pick(64, 80, 96, 128, 256);
  shape.group = pick(1, 4, 5, 7, 16);
  shape.n_kv_heads = pick(1, 2, 3);
  shape.page_size = pick(8, 12, 16, 33, 64, 100, 128);
  const int64_t sequences = pick(1, 2, 3);
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t tokens = 41 + static_cast<int64_t>(generator() % static_cast<uint64_t>(longest - 40));
    shape.n_tokens.push_back(tokens | 1);
    shape.prompt_tokens.push_back(1 + static_cast<int64_t>(generator() % 20));
  }
  return shape;
}

inline std::vector<LayerTensors> random_batch(const BatchShape& shape) {
  std::vector<LayerTensors> batch;
  for (size_t s = 0; s < shape.n_tokens.size(); ++s)
    batch.push_back(random_layer({.n_tokens = shape.n_tokens[s],
                                  .prompt_tokens = shape.prompt_tokens[s],
                                  .n_kv_heads = shape.n_kv_heads,
                                  .group = shape.group,
                                  .head_dim = shape.head_dim,
                                  .dtype = shape.dtype,
                                  .query_norm = shape.query_norm,
                                  .seed = 100 * shape.seed + s}));
  return batch;
}

/// How a block's steps lie: all of the last sequence and consecutive (fidelity), one of each sequence
/// (latency), or runs of every sequence one after another.
enum class Layout { consecutive, one_each, runs };

/// Steps near the end of the sequences, with rows numbered sequence after sequence from each prompt's end.
inline std::vector<BlockStep> steps_of(const BatchShape& shape, Layout layout, int64_t count,
                                       int64_t window) {
  std::vector<BlockStep> steps;
  int64_t first_row = 0;
  const auto sequences = static_cast<int64_t>(shape.n_tokens.size());
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t decode = shape.n_tokens[s] - shape.prompt_tokens[s];
    const bool used = layout != Layout::consecutive || s == sequences - 1;
    const int64_t own = layout == Layout::one_each ? 1 : std::min(count, decode);
    // Not quite at the end: tokens after the last row are appended too, and must not leak.
    const int64_t end = std::max(own, decode - 3);
    for (int64_t step = end - own; used && step < end; ++step)
      steps.push_back({static_cast<int32_t>(s), static_cast<int32_t>(shape.prompt_tokens[s] + step),
                       static_cast<int32_t>(first_row + step),
                       static_cast<int32_t>(std::min(window, step + 1))});
    first_row += decode;
  }
  return steps;
}

inline int64_t output_rows(const BatchShape& shape) {
  return std::accumulate(shape.n_tokens.begin(), shape.n_tokens.end(), int64_t{0}) -
         std::accumulate(shape.prompt_tokens.begin(), shape.prompt_tokens.end(), int64_t{0});
}

/// A batch resident on a backend with all tokens appended.
struct Resident {
  Resident(Backend& on, const std::vector<LayerTensors>& batch, int64_t page_size)
      : backend(on), layer(backend.load_layer(batch)), cache(backend.make_cache(*layer, page_size)) {
    std::vector<TokenRange> all;
    for (size_t s = 0; s < batch.size(); ++s) all.push_back({static_cast<int64_t>(s), 0, batch[s].n_tokens});
    backend.append(*cache, *layer, all);
  }
  Backend& backend;
  std::unique_ptr<Layer> layer;
  std::unique_ptr<KvCache> cache;
};

/// A tensor full of NaN, so that what a primitive leaves out shows.
template <int Rank>
Tensor<float, Rank> poisoned(Backend& backend, const std::array<int64_t, Rank>& shape) {
  const auto tensor = backend.make_tensor<float, Rank>(shape);
  const int64_t bytes = tensor.size() * backend.real_bytes();
  const std::vector<unsigned char> ones(static_cast<size_t>(bytes), 0xff);
  backend.upload(tensor.data(), ones.data(), bytes);
  return tensor;
}

template <int Rank>
Tensor<int32_t, Rank> filled(Backend& backend, const std::array<int64_t, Rank>& shape, int32_t value) {
  const auto tensor = backend.make_tensor<int32_t, Rank>(shape);
  const std::vector<int32_t> values(static_cast<size_t>(tensor.size()), value);
  backend.upload(tensor.data(), values.data(), static_cast<int64_t>(values.size() * sizeof(int32_t)));
  return tensor;
}

/// Floats as what they are on the backend.
template <int Rank>
Tensor<float, Rank> uploaded(Backend& backend, const std::array<int64_t, Rank>& shape,
                             const std::vector<float>& values) {
  const auto tensor = backend.make_tensor<float, Rank>(shape);
  if (backend.real_bytes() == 8) {
    const std::vector<double> wide(values.begin(), values.end());
    backend.upload(tensor.data(), wide.data(), static_cast<int64_t>(wide.size() * sizeof(double)));
  } else {
    backend.upload(tensor.data(), values.data(), static_cast<int64_t>(values.size() * sizeof(float)));
  }
  return tensor;
}

/// True mass of the pages of the one step of layer_of_logits, and the k best of them.
struct RankedMass {
  std::vector<float> mass;
  std::vector<int32_t> best;
};
inline RankedMass rank_by_mass(Backend& backend, const std::vector<float>& logits, int64_t page_size,
                               int32_t k) {
  Resident on(backend, {layer_of_logits(logits)}, page_size);
  const Block block = backend.make_block({{0, static_cast<int32_t>(logits.size()) - 1, 0, 1}});
  const auto out = poisoned<3>(backend, {1, 1, on.layer->head_dim});
  const auto lse = poisoned<2>(backend, {1, 1});
  backend.dense(*on.layer, *on.cache, block, out, lse);
  const auto mass = poisoned<3>(backend, {1, 1, on.cache->max_pages});
  backend.page_mass(*on.layer, *on.cache, block, Unit::per_kv_head, lse, mass);
  const PageLists lists{filled<3>(backend, {1, 1, k}, -9), filled<2>(backend, {1, 1}, -9)};
  backend.select_top_k(*on.cache, block, mass, {&k, 1}, Newest::competes, lists);
  return {backend.to_host(mass), backend.to_host(lists.pages)};
}

/// Page lists as host arrays.
struct HostLists {
  int64_t n = 0, units = 0, capacity = 0;
  std::vector<int32_t> pages, count;

  PageLists on(Backend& backend) const {
    const PageLists lists{backend.make_tensor<int32_t, 3>({n, units, capacity}),
                          backend.make_tensor<int32_t, 2>({n, units})};
    backend.upload(lists.pages.data(), pages.data(), static_cast<int64_t>(pages.size() * sizeof(int32_t)));
    backend.upload(lists.count.data(), count.data(), static_cast<int64_t>(count.size() * sizeof(int32_t)));
    return lists;
  }
};

/// Each existing page is listed with probability `share`; some lists are empty. Unused places hold a page
/// that no sequence has.
inline HostLists random_lists(const std::vector<BlockStep>& steps, int64_t units, int64_t page_size,
                              double share, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform;
  HostLists lists;
  lists.n = static_cast<int64_t>(steps.size());
  lists.units = units;
  for (const BlockStep& step : steps)
    lists.capacity = std::max<int64_t>(lists.capacity, step.position / page_size + 1);
  for (const BlockStep& step : steps) {
    for (int64_t u = 0; u < units; ++u) {
      const double own_share = uniform(generator) < 0.1 ? 0 : share;
      std::vector<int32_t> pages;
      for (int32_t page = 0; page <= step.position / page_size; ++page)
        if (uniform(generator) < own_share) pages.push_back(page);
      lists.count.push_back(static_cast<int32_t>(pages.size()));
      pages.resize(static_cast<size_t>(lists.capacity), 1 << 20);
      lists.pages.insert(lists.pages.end(), pages.begin(), pages.end());
    }
  }
  return lists;
}

}  // namespace hindsight::test
