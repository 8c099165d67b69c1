// Layers whose rows come as a model computes them, on CUDA against the oracle: rows written in pieces and
// over each other, summaries recomputed and widened, queries set anew, ragged batches; and the step in one
// launch on tokens that are written already.

#include <gtest/gtest.h>

#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

struct GrowingCase {
  std::string name;
  BatchShape shape;
};
void PrintTo(const GrowingCase& c, std::ostream* out) { *out << c.name; }

/// A batch that grows on one backend. Rows are values of the storage type, so that no backend rounds them.
class Growing {
 public:
  Growing(Backend& backend, const BatchShape& shape, const std::vector<LayerTensors>& batch)
      : backend_(backend), shape_(shape) {
    for (const LayerTensors& tensors : batch) wide_.emplace_back(tensors);
    const LayerTensors& first = batch.front();
    layer = backend.make_growing_layer(
        {3, first.n_q_heads, first.n_kv_heads, first.head_dim, first.softmax_scale, first.dtype},
        shape.n_tokens);
    cache = backend.make_cache(*layer, shape.page_size);
  }

  /// Rows of all sequences in one call: n[s] from position first[s] on, with the contents of those from
  /// content[s] on.
  void write(const std::vector<int64_t>& first, const std::vector<int64_t>& n,
             const std::vector<int64_t>& content, Summaries summaries) {
    std::vector<RowRange> ranges;
    std::vector<float> k, v;
    int64_t row = 0;
    for (size_t s = 0; s < wide_.size(); ++s) {
      ranges.push_back({static_cast<int64_t>(s), first[s], n[s], row});
      row += n[s];
      const int64_t width = layer->n_kv_heads * layer->head_dim;
      for (auto* side : {&k, &v}) {
        const std::vector<double>& from = side == &k ? wide_[s].k : wide_[s].v;
        side->insert(side->end(), from.begin() + content[s] * width,
                     from.begin() + (content[s] + n[s]) * width);
      }
    }
    const std::array<int64_t, 3> rows{row, layer->n_kv_heads, layer->head_dim};
    backend_.write(*cache, *layer, ranges, uploaded<3>(backend_, rows, k), uploaded<3>(backend_, rows, v),
                   summaries);
  }

  /// The last `n` queries before position end[s], of all sequences.
  void set_queries(const std::vector<int64_t>& end, int64_t n) {
    std::vector<RowRange> ranges;
    std::vector<float> q;
    for (size_t s = 0; s < wide_.size(); ++s) {
      ranges.push_back({static_cast<int64_t>(s), end[s] - n, n, static_cast<int64_t>(s) * n});
      const int64_t width = layer->n_q_heads * layer->head_dim, first = end[s] - n - wide_[s].t.q_start;
      q.insert(q.end(), wide_[s].q.begin() + first * width, wide_[s].q.begin() + (first + n) * width);
    }
    const auto batch = static_cast<int64_t>(wide_.size());
    backend_.set_queries(*layer, ranges,
                         uploaded<3>(backend_, {batch * n, layer->n_q_heads, layer->head_dim}, q));
  }

  Block block(const std::vector<int64_t>& end, int64_t window) {
    std::vector<BlockStep> steps;
    for (size_t s = 0; s < wide_.size(); ++s)
      steps.push_back({static_cast<int32_t>(s), static_cast<int32_t>(end[s] - 1),
                       static_cast<int32_t>((static_cast<int64_t>(s) + 1) * window - 1),
                       static_cast<int32_t>(window)});
    return backend_.make_block(std::move(steps));
  }
  /// Scores of all pages by their summaries, then dense attention, of the queries before end[s].
  std::vector<float> look(const std::vector<int64_t>& end) {
    const Block steps = block(end, 1);
    const auto n = steps.size();
    const auto scores = poisoned<3>(backend_, {n, layer->n_kv_heads, cache->max_pages});
    const auto out = poisoned<3>(backend_, {n, layer->n_q_heads, layer->head_dim});
    const auto lse = poisoned<2>(backend_, {n, layer->n_q_heads});
    backend_.score_pages(*layer, *cache, steps, {}, false, scores);
    backend_.dense(*layer, *cache, steps, out, lse);
    std::vector<float> all = backend_.to_host(scores);
    for (const std::vector<float>& values : {backend_.to_host(out), backend_.to_host(lse)})
      all.insert(all.end(), values.begin(), values.end());
    return all;
  }

  std::unique_ptr<Layer> layer;
  std::unique_ptr<KvCache> cache;

 private:
  Backend& backend_;
  BatchShape shape_;
  std::vector<WideLayer> wide_;
};

class GrowingLayers : public GpuTest<::testing::TestWithParam<GrowingCase>> {
 protected:
  std::vector<LayerTensors> batch_ = random_batch(GetParam().shape);
  const std::vector<int64_t>& tokens_ = GetParam().shape.n_tokens;
  std::vector<int64_t> all(int64_t value) const { return std::vector<int64_t>(tokens_.size(), value); }
};

TEST_P(GrowingLayers, RowsInPiecesAndOverEachOther) {
  for (const Summaries summaries : {Summaries::recompute, Summaries::widen}) {
    std::vector<std::vector<float>> looks[2];
    Backend* backends[] = {cuda_.get(), oracle_.get()};
    for (int b = 0; b < 2; ++b) {
      Growing growing(*backends[b], GetParam().shape, batch_);
      std::vector<int64_t> prompt = tokens_;
      for (int64_t& n : prompt) n -= 11;
      growing.write(all(0), prompt, all(0), summaries);
      growing.set_queries(prompt, 1);
      looks[b].push_back(growing.look(prompt));
      // A window of four goes on: three over what they were, with other rows, and a new one.
      std::vector<int64_t> first = prompt, end = prompt;
      for (size_t s = 0; s < first.size(); ++s) {
        first[s] -= 3;
        end[s] += 1;
      }
      growing.write(first, all(4), all(1), summaries);
      growing.set_queries(end, 4);
      looks[b].push_back(growing.look(end));
      growing.write(first, all(14), first, summaries);
      growing.set_queries(tokens_, 2);
      looks[b].push_back(growing.look(tokens_));
    }
    for (size_t i = 0; i < looks[0].size(); ++i)
      expect_close("scores, attention", looks[0][i], looks[1][i], score_tolerance);
  }
}

TEST_P(GrowingLayers, OneLaunchOnWrittenTokensIsThePrimitives) {
  constexpr int64_t window = 2;
  const auto n = static_cast<int64_t>(tokens_.size());
  Growing growing(*cuda_, GetParam().shape, batch_);
  growing.write(all(0), tokens_, all(0), Summaries::recompute);
  growing.set_queries(tokens_, window);
  Layer& layer = *growing.layer;
  KvCache& cache = *growing.cache;
  const int64_t units = layer.n_kv_heads, heads = layer.n_q_heads, d = layer.head_dim,
                pages = cache.max_pages;
  const Block block = growing.block(tokens_, window);
  const std::vector<int32_t> k(static_cast<size_t>(n), 3);
  std::vector<float> results[2];
  std::vector<int32_t> lists_of[2];
  for (int way = 0; way < 2; ++way) {
    const PageLists lists{filled<3>(*cuda_, {n, units, pages}, -9), filled<2>(*cuda_, {n, units}, -9)};
    const auto last_loaded = filled<3>(*cuda_, {n, units, pages}, -1);
    const std::vector<float> ones(static_cast<size_t>(n * window * heads * d), 1.0f);
    const Outputs outputs{uploaded<3>(*cuda_, {n * window, heads, d}, ones),
                          uploaded<2>(*cuda_, {n * window, heads},
                                      std::vector<float>(static_cast<size_t>(n * window * heads), 0.5f))};
    if (way == 0) {
      if (!cuda_->decode_step(cache, layer, block,
                              {.k = k,
                               .window = window,
                               .lists = lists,
                               .last_loaded = last_loaded,
                               .outputs = outputs,
                               .is_written = true}))
        GTEST_SKIP() << "one launch cannot do this step";
    } else {
      const auto scores = poisoned<3>(*cuda_, {n, units, pages});
      const auto previous = filled<3>(*cuda_, {n, units, pages}, -9);
      const Partials partials{poisoned<4>(*cuda_, {n, window, heads, d}),
                              poisoned<3>(*cuda_, {n, window, heads})};
      cuda_->score_pages(layer, cache, block, {}, false, scores);
      cuda_->select_top_k(cache, block, scores, k, Newest::forced, lists);
      cuda_->note_loads(block, lists, last_loaded, previous);
      cuda_->attend(layer, cache, block, {}, lists, previous, window, partials);
      cuda_->merge(block, window, partials, outputs);
    }
    EXPECT_EQ(cache.n_appended, tokens_);
    results[way] = cuda_->to_host(outputs.out);
    lists_of[way] = cuda_->to_host(last_loaded);
  }
  EXPECT_EQ(lists_of[0], lists_of[1]);
  expect_close("outputs", results[0], results[1], attention_tolerance);
}

TEST_P(GrowingLayers, GapsAndRowsBeyondTheCapacityAreRefused) {
  Growing growing(*cuda_, GetParam().shape, batch_);
  growing.write(all(0), all(9), all(0), Summaries::recompute);
  EXPECT_THROW(growing.write(all(10), all(1), all(10), Summaries::recompute), std::invalid_argument);
  EXPECT_NO_THROW(growing.write(all(8), all(2), all(8), Summaries::recompute));
  std::vector<int64_t> rest = tokens_;
  for (int64_t& n : rest) n -= 9;
  EXPECT_THROW(growing.write(all(10), rest, all(9), Summaries::recompute), std::invalid_argument);
}

BatchShape ragged(DType dtype, int64_t head_dim, int64_t page_size, int64_t group) {
  BatchShape shape;
  shape.n_tokens = {131, 53, 90};
  shape.prompt_tokens = {10, 10, 10};
  shape.dtype = dtype;
  shape.head_dim = head_dim;
  shape.page_size = page_size;
  shape.group = group;
  return shape;
}

INSTANTIATE_TEST_SUITE_P(Table, GrowingLayers,
                         ::testing::Values(GrowingCase{"Float32", ragged(DType::float32, 64, 16, 4)},
                                           GrowingCase{"Float32OddPages", ragged(DType::float32, 80, 12, 1)},
                                           GrowingCase{"Float16", ragged(DType::float16, 128, 16, 4)},
                                           GrowingCase{"Bfloat16", ragged(DType::bfloat16, 128, 16, 4)},
                                           GrowingCase{"Bfloat16LargePages",
                                                       ragged(DType::bfloat16, 96, 64, 7)}),
                         [](const auto& growing) { return growing.param.name; });

}  // namespace
}  // namespace hindsight::test
