// Layers whose rows come as a model computes them, against the same layers loaded whole.

#include <gtest/gtest.h>

#include <stdexcept>

#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

constexpr int64_t page_size = 4;

/// A random layer and its rows as a model would hand them over.
class GrowingLayer : public ::testing::Test {
 protected:
  Tensor<float, 3> rows(const std::vector<double>& wide, int64_t first, int64_t n, int64_t heads) {
    const int64_t d = tensors_.head_dim;
    const auto begin = wide.begin() + first * heads * d;
    const auto tensor = backend_->make_tensor<float, 3>({n, heads, d});
    backend_->from_host(tensor, std::vector<float>(begin, begin + n * heads * d));
    return tensor;
  }
  void write(int64_t first, int64_t n, Summaries summaries = Summaries::recompute, int64_t from = -1) {
    const RowRange range{0, first, n, 0};
    if (from < 0) from = first;
    backend_->write(*cache_, *layer_, {&range, 1}, rows(wide_.k, from, n, tensors_.n_kv_heads),
                    rows(wide_.v, from, n, tensors_.n_kv_heads), summaries);
  }
  /// Scores and dense attention of the query at a position.
  std::vector<float> scores_at(int64_t position) {
    const RowRange range{0, position, 1, 0};
    backend_->set_queries(*layer_, {&range, 1},
                          rows(wide_.q, position - tensors_.q_start, 1, tensors_.n_q_heads));
    return look(*layer_, *cache_, position);
  }
  std::vector<float> look(const Layer& layer, const KvCache& cache, int64_t position) {
    const Block block = backend_->make_block({{0, static_cast<int32_t>(position), 0, 1}});
    const auto scores = backend_->make_tensor<float, 3>({1, tensors_.n_kv_heads, cache.max_pages});
    const auto out = backend_->make_tensor<float, 3>({1, tensors_.n_q_heads, tensors_.head_dim});
    const auto lse = backend_->make_tensor<float, 2>({1, tensors_.n_q_heads});
    backend_->score_pages(layer, cache, block, {}, false, scores);
    backend_->dense(layer, cache, block, out, lse);
    std::vector<float> all = backend_->to_host(scores);
    for (const float value : backend_->to_host(out)) all.push_back(value);
    return all;
  }
  std::vector<float> scores_of_whole(int64_t position) {
    const Resident whole(*backend_, {tensors_}, page_size);
    return look(*whole.layer, *whole.cache, position);
  }

  LayerTensors tensors_ = random_layer({.n_tokens = 43, .prompt_tokens = 20});
  WideLayer wide_{tensors_};
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Layer> layer_ = backend_->make_growing_layer(
      {3, tensors_.n_q_heads, tensors_.n_kv_heads, tensors_.head_dim, tensors_.softmax_scale},
      std::vector<int64_t>{43});
  std::unique_ptr<KvCache> cache_ = backend_->make_cache(*layer_, page_size);
};

TEST_F(GrowingLayer, RowsInPiecesAreTheLayerAsAWhole) {
  int64_t at = 0;
  for (const int64_t n : {20, 1, 1, 5, 9, 7}) {
    write(at, n);
    at += n;
  }
  ASSERT_EQ(at, 43);
  EXPECT_EQ(cache_->n_appended[0], 43);
  EXPECT_EQ(scores_at(42), scores_of_whole(42));
  EXPECT_EQ(scores_at(30), scores_of_whole(30));
}

TEST_F(GrowingLayer, RowsAreOverwrittenWithSummaries) {
  write(0, 43);
  const std::vector<float> before = scores_at(42);
  write(30, 5, Summaries::recompute, 3);  // other rows
  EXPECT_NE(scores_at(42), before);
  write(30, 5);  // the right ones again: nothing of the others is left
  EXPECT_EQ(scores_at(42), before);
  EXPECT_EQ(cache_->n_appended[0], 43);
}

TEST_F(GrowingLayer, WidenedSummariesHoldWhatWasThere) {
  write(0, 43);
  const std::vector<float> before = scores_at(42);
  write(30, 5, Summaries::widen, 3);
  write(30, 5, Summaries::widen);
  const std::vector<float> after = scores_at(42);
  const int64_t pages = cache_->max_pages, units = tensors_.n_kv_heads;
  int64_t higher = 0;
  for (int64_t i = 0; i < units * pages; ++i) {
    EXPECT_GE(after[i], before[i]) << i;
    const bool touched = i % pages == 7 || i % pages == 8;  // tokens 28 to 35
    if (!touched) {
      EXPECT_EQ(after[i], before[i]) << i;
    }
    higher += after[i] > before[i] ? 1 : 0;
  }
  EXPECT_GT(higher, 0);
  for (size_t i = static_cast<size_t>(units * pages); i < after.size(); ++i)
    EXPECT_EQ(after[i], before[i]) << i;
}

TEST_F(GrowingLayer, GapsAndRowsBeyondTheCapacityAreRefused) {
  write(0, 20);
  EXPECT_THROW(write(21, 1), std::invalid_argument);
  EXPECT_NO_THROW(write(19, 2));
  EXPECT_THROW(write(21, 23, Summaries::recompute, 0), std::invalid_argument);
}

}  // namespace
}  // namespace hindsight::test
