// Dense attention, attention over page lists, and the merge of windows: CUDA against the CPU in double, on
// random shapes.

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <tuple>

#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

struct DenseResult {
  std::vector<float> out, lse;
};

DenseResult run_dense(Resident& on, const std::vector<BlockStep>& steps) {
  const Block block = on.backend.make_block(steps);
  const auto out = poisoned<3>(on.backend, {block.size(), on.layer->n_q_heads, on.layer->head_dim});
  const auto lse = poisoned<2>(on.backend, {block.size(), on.layer->n_q_heads});
  on.backend.dense(*on.layer, *on.cache, block, out, lse);
  return {on.backend.to_host(out), on.backend.to_host(lse)};
}

struct WindowResult {
  std::vector<float> partial_out, partial_lse, out, lse;
};

/// Loads noted, window attended, merged in two blocks: the second one's past queries lie in the first.
WindowResult run_window(Resident& on, const std::vector<BlockStep>& steps, const HostLists& lists, Unit unit,
                        int64_t window, int64_t rows) {
  Backend& backend = on.backend;
  const int64_t heads = on.layer->n_q_heads, d = on.layer->head_dim, n = lists.n;
  const Block block = backend.make_block(steps);
  const PageLists on_backend = lists.on(backend);
  const auto sequences = static_cast<int64_t>(on.layer->n_tokens.size());
  const auto last_loaded = filled<3>(backend, {sequences, lists.units, on.cache->max_pages}, -1);
  const auto previous = filled<3>(backend, {n, lists.units, lists.capacity}, 1 << 30);
  backend.note_loads(block, on_backend, last_loaded, previous);
  const Partials partials{poisoned<4>(backend, {n, window, heads, d}),
                          poisoned<3>(backend, {n, window, heads})};
  backend.attend(*on.layer, *on.cache, block, {unit, Combine::mean}, on_backend, previous, window, partials);

  // Rows that no step writes are 0, not poison: they are compared too.
  const auto zeros = [](int64_t size) { return std::vector<float>(static_cast<size_t>(size), 0.0f); };
  const Outputs outputs{uploaded<3>(backend, {rows, heads, d}, zeros(rows * heads * d)),
                        uploaded<2>(backend, {rows, heads}, zeros(rows * heads))};
  const int64_t cut = n / 2;
  for (const auto& [first, count] : {std::pair{int64_t{0}, cut}, std::pair{cut, n - cut}}) {
    if (count == 0) continue;
    const Block part = backend.make_block({steps.begin() + first, steps.begin() + first + count});
    backend.merge(part, window,
                  {backend.rows_of(partials.out, first, count), backend.rows_of(partials.lse, first, count)},
                  outputs);
  }
  return {backend.to_host(partials.out), backend.to_host(partials.lse), backend.to_host(outputs.out),
          backend.to_host(outputs.lse)};
}

class GpuAttention : public GpuTest<::testing::TestWithParam<int>> {};

TEST_P(GpuAttention, DenseEqualsOracle) {
  const auto seed = static_cast<uint64_t>(GetParam());
  const BatchShape shape = random_batch_shape(seed, 700);
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  for (const Layout layout : {Layout::consecutive, Layout::one_each, Layout::runs}) {
    const auto steps = steps_of(shape, layout, 37, 1);
    const DenseResult actual = run_dense(cuda, steps), expected = run_dense(oracle, steps);
    expect_close("out", actual.out, expected.out, attention_tolerance);
    expect_close("lse", actual.lse, expected.lse, attention_tolerance);
  }
}

TEST_P(GpuAttention, WindowEqualsOracle) {
  const auto seed = static_cast<uint64_t>(GetParam());
  const BatchShape shape = random_batch_shape(seed + 1000, 500);
  const int64_t window = std::array<int64_t, 6>{1, 2, 3, 4, 8, 16}[seed % 6];
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
  for (const Unit unit : {Unit::per_kv_head, Unit::per_query_head}) {
    for (const Layout layout : {Layout::consecutive, Layout::one_each, Layout::runs}) {
      const auto steps = steps_of(shape, layout, 23, window);
      const HostLists lists = random_lists(steps, cuda.layer->units(unit), shape.page_size, 0.5, seed);
      const int64_t rows = output_rows(shape);
      const WindowResult actual = run_window(cuda, steps, lists, unit, window, rows);
      const WindowResult expected = run_window(oracle, steps, lists, unit, window, rows);
      expect_close("partial out", actual.partial_out, expected.partial_out, attention_tolerance);
      expect_close("partial lse", actual.partial_lse, expected.partial_lse, attention_tolerance);
      expect_close("out", actual.out, expected.out, attention_tolerance);
      expect_close("lse", actual.lse, expected.lse, attention_tolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(RandomShapes, GpuAttention, ::testing::Range(0, 18));

class GpuAttentionLarge : public GpuTest<> {};

// One step over many tokens is split among blocks, and over the widest tiles there are.
TEST_F(GpuAttentionLarge, SplitsOfALongSequence) {
  for (const auto& [group, window, head_dim] :
       {std::tuple{4, 4, 128}, std::tuple{16, 16, 256}, std::tuple{5, 8, 80}}) {
    const BatchShape shape{.n_tokens = {6001},
                           .prompt_tokens = {5900},
                           .n_kv_heads = 1,
                           .group = group,
                           .head_dim = head_dim,
                           .page_size = 24,
                           .dtype = DType::bfloat16};
    const auto batch = random_batch(shape);
    Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
    const auto steps = steps_of(shape, Layout::one_each, 1, window);
    const DenseResult dense = run_dense(cuda, steps), expected_dense = run_dense(oracle, steps);
    expect_close("dense out", dense.out, expected_dense.out, attention_tolerance);
    expect_close("dense lse", dense.lse, expected_dense.lse, attention_tolerance);
    const HostLists lists = random_lists(steps, 1, shape.page_size, 0.6, 3);
    const WindowResult actual = run_window(cuda, steps, lists, Unit::per_kv_head, window, output_rows(shape));
    const WindowResult expected =
        run_window(oracle, steps, lists, Unit::per_kv_head, window, output_rows(shape));
    expect_close("out", actual.partial_out, expected.partial_out, attention_tolerance);
    expect_close("lse", actual.partial_lse, expected.partial_lse, attention_tolerance);
  }
}

// Blocks share out the tokens of all sequences: parts begin and end anywhere, also in the middle of a problem
// that others have, and some problems are whole.
TEST_F(GpuAttentionLarge, DenseOfRaggedBatches) {
  std::mt19937_64 generator(5);
  for (const auto& [sequences, n_kv_heads, group, longest] :
       {std::tuple{1, 1, 4, 9000}, std::tuple{3, 2, 8, 4000}, std::tuple{40, 3, 1, 700},
        std::tuple{150, 4, 4, 300}, std::tuple{6, 40, 2, 500}}) {
    BatchShape shape{.n_tokens = {},
                     .prompt_tokens = {},
                     .n_kv_heads = n_kv_heads,
                     .group = group,
                     .head_dim = 128,
                     .page_size = 32,
                     .dtype = DType::bfloat16};
    for (int s = 0; s < sequences; ++s) {
      const int64_t tokens =
          s == 0 ? longest : 3 + static_cast<int64_t>(generator() % static_cast<uint64_t>(longest));
      shape.n_tokens.push_back(tokens);
      shape.prompt_tokens.push_back(std::max<int64_t>(1, tokens - 3));
    }
    const auto batch = random_batch(shape);
    Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
    const auto steps = steps_of(shape, Layout::one_each, 1, 1);
    const DenseResult actual = run_dense(cuda, steps), expected = run_dense(oracle, steps);
    expect_close("out", actual.out, expected.out, attention_tolerance);
    expect_close("lse", actual.lse, expected.lse, attention_tolerance);
    // Counters are left as they were found; which block combines changes no bit.
    const DenseResult again = run_dense(cuda, steps);
    EXPECT_EQ(0, std::memcmp(actual.out.data(), again.out.data(), again.out.size() * sizeof(float)));
  }
}

TEST_F(GpuAttentionLarge, LogitsOfHundreds) {
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
    const BatchShape shape{
        .n_tokens = {301, 203}, .prompt_tokens = {200, 100}, .group = 5, .dtype = dtype, .query_norm = 300};
    const auto batch = random_batch(shape);
    Resident cuda(*cuda_, batch, shape.page_size), oracle(*oracle_, batch, shape.page_size);
    const auto steps = steps_of(shape, Layout::runs, 20, 4);
    const DenseResult dense = run_dense(cuda, steps), expected_dense = run_dense(oracle, steps);
    ASSERT_GT(*std::max_element(dense.lse.begin(), dense.lse.end()), 300.0f)
        << "the case must have large LSEs";
    expect_close("dense out", dense.out, expected_dense.out, large_logit_tolerance);
    expect_close("dense lse", dense.lse, expected_dense.lse, large_logit_tolerance);
    const HostLists lists = random_lists(steps, 2, shape.page_size, 0.3, 9);
    const WindowResult actual = run_window(cuda, steps, lists, Unit::per_kv_head, 4, output_rows(shape));
    const WindowResult expected = run_window(oracle, steps, lists, Unit::per_kv_head, 4, output_rows(shape));
    expect_close("out", actual.out, expected.out, large_logit_tolerance);
    expect_close("lse", actual.lse, expected.lse, large_logit_tolerance);
  }
}

TEST_F(GpuAttentionLarge, RunsAgreeBitForBit) {
  const BatchShape shape{.n_tokens = {2049}, .prompt_tokens = {2000}, .group = 4, .head_dim = 128};
  const auto batch = random_batch(shape);
  Resident cuda(*cuda_, batch, shape.page_size);
  const auto steps = steps_of(shape, Layout::consecutive, 40, 8);
  const HostLists lists = random_lists(steps, 2, shape.page_size, 0.5, 4);
  const WindowResult first = run_window(cuda, steps, lists, Unit::per_kv_head, 8, output_rows(shape));
  const WindowResult second = run_window(cuda, steps, lists, Unit::per_kv_head, 8, output_rows(shape));
  EXPECT_EQ(0, std::memcmp(first.out.data(), second.out.data(), first.out.size() * sizeof(float)));
  EXPECT_EQ(0, std::memcmp(first.lse.data(), second.lse.data(), first.lse.size() * sizeof(float)));
}

// What a query gets does not depend on how many past ones are beside it: in few steps, whose blocks stream,
// and in more than a GPU has multiprocessors for.
TEST_F(GpuAttentionLarge, AWindowChangesNoBitOfItsRows) {
  for (const auto& [group, head_dim, page, n_steps] :
       {std::tuple{4, 128, 16, 1}, std::tuple{4, 128, 16, 90}, std::tuple{5, 80, 32, 2},
        std::tuple{1, 64, 16, 1}, std::tuple{8, 96, 48, 90}}) {
    const BatchShape shape{.n_tokens = {1037},
                           .prompt_tokens = {900},
                           .group = group,
                           .head_dim = head_dim,
                           .page_size = page,
                           .dtype = head_dim == 96 ? DType::float16 : DType::bfloat16};
    const auto batch = random_batch(shape);
    Resident cuda(*cuda_, batch, shape.page_size);
    constexpr int64_t widest = 16;
    const auto steps = steps_of(shape, Layout::consecutive, n_steps, widest);
    const HostLists lists = random_lists(steps, 2, shape.page_size, 0.5, 6);
    const auto run = [&](int64_t window) {
      return run_window(cuda, steps, lists, Unit::per_kv_head, window, output_rows(shape));
    };
    const WindowResult all = run(widest);
    for (const int64_t window : {1, 2, 3, 4, 8}) {
      const WindowResult some = run(window);
      const auto slot_items = static_cast<size_t>(window) * 2 * static_cast<size_t>(group);
      for (size_t i = 0; i < steps.size(); ++i) {
        const size_t own = i * slot_items, of_all = own / static_cast<size_t>(window) * widest;
        EXPECT_EQ(0,
                  std::memcmp(&some.partial_lse[own], &all.partial_lse[of_all], slot_items * sizeof(float)))
            << "step " << i << ", window " << window;
        const auto d = static_cast<size_t>(head_dim);
        EXPECT_EQ(0, std::memcmp(&some.partial_out[own * d], &all.partial_out[of_all * d],
                                 slot_items * d * sizeof(float)))
            << "step " << i << ", window " << window;
      }
    }
  }
}

// Tokens arrive in odd pieces, are forgotten and come again: summaries and pages end up as if appended at
// once.
TEST_F(GpuAttentionLarge, AppendInPiecesAndTruncate) {
  const BatchShape shape{
      .n_tokens = {137, 90}, .prompt_tokens = {1, 1}, .page_size = 12, .dtype = DType::bfloat16};
  const auto batch = random_batch(shape);
  const auto run = [&](Backend& backend, bool pieces) {
    Resident on(backend, batch, shape.page_size);
    if (pieces) {
      const std::vector<int64_t> to{30, 41};
      backend.truncate(*on.cache, *on.layer, to);
      const std::vector<std::vector<TokenRange>> appended{
          {{0, 30, 31}, {1, 41, 50}}, {{0, 31, 77}}, {{1, 50, 50}, {0, 77, 137}}, {{1, 50, 90}}};
      for (const auto& ranges : appended) backend.append(*on.cache, *on.layer, ranges);
    }
    const Block block = backend.make_block({{0, 135, 134, 1}, {1, 88, 87, 1}});
    const auto scores = poisoned<3>(backend, {2, 2, on.cache->max_pages});
    backend.score_pages(*on.layer, *on.cache, block, {}, false, scores);
    DenseResult result = run_dense(on, block.steps);
    result.lse = backend.to_host(scores);
    return result;
  };
  const DenseResult pieces = run(*cuda_, true), whole = run(*cuda_, false), expected = run(*oracle_, false);
  EXPECT_EQ(pieces.out, whole.out);
  EXPECT_EQ(pieces.lse, whole.lse);
  expect_close("out", pieces.out, expected.out, attention_tolerance);
  expect_close("scores", pieces.lse, expected.lse, score_tolerance);
}

// In a page that is being filled, the places of tokens to come hold whatever was in memory: here NaN, which a
// weight of 0 would not hide.
TEST_F(GpuAttentionLarge, TokensNotYetAppendedAreNotRead) {
  const BatchShape shape{
      .n_tokens = {530, 77}, .prompt_tokens = {500, 60}, .page_size = 16, .dtype = DType::float32};
  const auto batch = random_batch(shape);
  const std::vector<TokenRange> ranges{{0, 0, 523}, {1, 0, 70}};
  const std::vector<BlockStep> steps{{0, 522, 22, 1}, {1, 69, 39, 1}};
  const auto run = [&](Backend& backend) {
    poisoned<1>(backend, {16 << 20});  // freed at once: the cache gets its memory
    const auto layer = backend.load_layer(batch);
    const auto cache = backend.make_cache(*layer, shape.page_size);
    backend.append(*cache, *layer, ranges);
    const Block block = backend.make_block(steps);
    const auto out = poisoned<3>(backend, {2, layer->n_q_heads, layer->head_dim});
    const auto lse = poisoned<2>(backend, {2, layer->n_q_heads});
    backend.dense(*layer, *cache, block, out, lse);
    const auto scores = poisoned<3>(backend, {2, 2, cache->max_pages});
    backend.score_pages(*layer, *cache, block, {}, false, scores);
    const PageLists lists{backend.make_tensor<int32_t, 3>({2, 2, cache->max_pages}),
                          backend.make_tensor<int32_t, 2>({2, 2})};
    const std::vector<int32_t> all_pages(2, static_cast<int32_t>(cache->max_pages));
    backend.select_top_k(*cache, block, scores, all_pages, Newest::forced, lists);
    const Partials partials{poisoned<4>(backend, {2, 1, layer->n_q_heads, layer->head_dim}),
                            poisoned<3>(backend, {2, 1, layer->n_q_heads})};
    backend.attend(*layer, *cache, block, {}, lists, {}, 1, partials);
    return std::array{backend.to_host(out), backend.to_host(partials.out), backend.to_host(scores)};
  };
  const auto actual = run(*cuda_), expected = run(*oracle_);
  expect_close("dense", actual[0], expected[0], attention_tolerance);
  expect_close("attend", actual[1], expected[1], attention_tolerance);
  expect_close("scores", actual[2], expected[2], score_tolerance);
}

}  // namespace
}  // namespace hindsight::test
