// The traps of retrospective attention, one test each. Every test was seen to fail with its trap sprung
// (mutation named above it).

#include <gtest/gtest.h>

#include <cstring>

#include "support/window_replay.h"

namespace hindsight::test {
namespace {

class RetroTraps : public ::testing::TestWithParam<Unit> {
 protected:
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  int64_t units(const LayerTensors& layer) const {
    return GetParam() == Unit::per_kv_head ? layer.n_kv_heads : layer.n_q_heads;
  }
};

// Mutation: attend without the restriction to tokens <= query position.
TEST_P(RetroTraps, PageBegunAfterAQueryAddsNothing) {
  const LayerTensors layer = random_layer({.n_tokens = 64, .prompt_tokens = 46});
  // Page 3 (tokens 48..63) begins at step 2; it looks unseen to the queries of steps 0 and 1.
  PageChoice sets(static_cast<size_t>(units(layer)));
  for (auto& unit_sets : sets)
    for (int64_t step = 0; step < 5; ++step)
      unit_sets.push_back(step < 2 ? std::set<int32_t>{0, 2} : std::set<int32_t>{0, 2, 3});
  const auto alone = replay_window(*backend_, layer, sets, 16, GetParam(), 1, 5);
  const auto revised = replay_window(*backend_, layer, sets, 16, GetParam(), 4, 5);
  const size_t two_steps = static_cast<size_t>(2 * layer.n_q_heads * layer.head_dim);
  EXPECT_EQ(0, std::memcmp(alone.out.data(), revised.out.data(), two_steps * sizeof(float)));
  EXPECT_LT(largest_error(revised, WideLayer(layer), sets, 16, GetParam(), 4), float_tolerance);
}

// Mutation: a past query attends to all tokens held by a page that was newest at its step. Under `competes`
// that page may be unseen.
TEST_P(RetroTraps, NewestPageHasGrownSince) {
  const LayerTensors layer = random_layer({.n_tokens = 64, .prompt_tokens = 50});
  // Page 3 is newest throughout; the first query did not load it (it lost its place), the third one does.
  PageChoice sets(static_cast<size_t>(units(layer)));
  for (auto& unit_sets : sets) unit_sets = {{0, 1}, {0, 1}, {0, 3}, {1, 3}};
  const auto revised = replay_window(*backend_, layer, sets, 16, GetParam(), 4, 4);
  EXPECT_LT(largest_error(revised, WideLayer(layer), sets, 16, GetParam(), 4), float_tolerance);
}

// Mutation: the merge of an empty partial recomputes the LSE as log(exp(lse)).
TEST_P(RetroTraps, EmptySupplementLeavesEveryBit) {
  const LayerTensors layer = random_layer({.n_tokens = 60, .prompt_tokens = 30, .query_norm = 30});
  PageChoice sets(static_cast<size_t>(units(layer)));
  for (auto& unit_sets : sets) unit_sets.assign(12, {0, 1});
  const auto alone = replay_window(*backend_, layer, sets, 16, GetParam(), 1, 12);
  const auto revised = replay_window(*backend_, layer, sets, 16, GetParam(), 8, 12);
  EXPECT_EQ(0, std::memcmp(alone.out.data(), revised.out.data(), alone.out.size() * sizeof(float)));
  EXPECT_EQ(0, std::memcmp(alone.lse.data(), revised.lse.data(), alone.lse.size() * sizeof(float)));
}

// Mutation: merge_partial without its guards (-inf - -inf is NaN), or 0 as the LSE of nothing.
TEST_P(RetroTraps, NothingAttendedIsTheIdentity) {
  const LayerTensors layer = random_layer({.n_tokens = 60, .prompt_tokens = 30});
  PageChoice sets(static_cast<size_t>(units(layer)));
  for (auto& unit_sets : sets) unit_sets = {{}, {}, {0, 1}, {}};
  const auto revised = replay_window(*backend_, layer, sets, 16, GetParam(), 3, 4);
  EXPECT_LT(largest_error(revised, WideLayer(layer), sets, 16, GetParam(), 3), float_tolerance);
}

// Mutation: merge with exp(lse) instead of exp(lse - m).
TEST_P(RetroTraps, LargeLogitsDoNotOverflow) {
  const LayerTensors layer = random_layer({.n_tokens = 90, .prompt_tokens = 48, .query_norm = 300});
  const PageChoice sets = random_sets(layer, 30, 8, units(layer), 0.3, true, 5);
  const auto revised = replay_window(*backend_, layer, sets, 8, GetParam(), 6, 7);
  EXPECT_TRUE(std::any_of(revised.lse.begin(), revised.lse.end(), [](float lse) { return lse > 500; }))
      << "the case must have LSEs in the hundreds";
  // Logits of a thousand are rounded to 1e-4 in float before the exponential.
  EXPECT_LT(largest_error(revised, WideLayer(layer), sets, 8, GetParam(), 6), 2e-3);
}

// Mutation: all heads of a unit use the query of its first head.
TEST_P(RetroTraps, HeadsOfAGroupShareTheSetButNotTheQuery) {
  for (const int64_t group : {1, 4, 5, 7}) {
    const LayerTensors layer = random_layer({.group = group, .seed = static_cast<uint64_t>(group)});
    const PageChoice sets = random_sets(layer, 35, 16, units(layer), 0.4, true, 9);
    const auto revised = replay_window(*backend_, layer, sets, 16, GetParam(), 4, 35);
    EXPECT_LT(largest_error(revised, WideLayer(layer), sets, 16, GetParam(), 4), float_tolerance)
        << "G = " << group;
  }
}

// Mutation: window_rows of a block counted from the block instead of the replay.
TEST_P(RetroTraps, WindowReachesAcrossBlocks) {
  const LayerTensors layer = random_layer({});
  const PageChoice sets = random_sets(layer, 35, 16, units(layer), 0.4, false, 11);
  const auto whole = replay_window(*backend_, layer, sets, 16, GetParam(), 5, 35);
  EXPECT_LT(largest_error(whole, WideLayer(layer), sets, 16, GetParam(), 5), float_tolerance);
  for (const int64_t block : {1, 2, 3, 16}) {
    const auto pieces = replay_window(*backend_, layer, sets, 16, GetParam(), 5, block);
    EXPECT_EQ(whole.out, pieces.out) << "blocks of " << block;
    EXPECT_EQ(whole.lse, pieces.lse) << "blocks of " << block;
  }
}

// Mutation: last_loaded, keys or queries taken without the sequence; window_rows of a block's first step for
// all.
TEST_P(RetroTraps, SequencesOfABatchAreApart) {
  constexpr int64_t page_size = 16, window = 3, most_steps = 9;
  // Sequences join and leave the batch at their own time, and one of them has a smaller window.
  const std::vector<int64_t> joins{0, 3, 1}, n_steps{9, 5, 6}, windows{2, 3, 3};
  const std::vector<LayerTensors> batch{random_layer({.n_tokens = 50, .prompt_tokens = 31, .seed = 1}),
                                        random_layer({.n_tokens = 83, .prompt_tokens = 70, .seed = 2}),
                                        random_layer({.n_tokens = 29, .prompt_tokens = 20, .seed = 3})};
  std::vector<PageChoice> sets;
  for (size_t s = 0; s < batch.size(); ++s)
    sets.push_back(random_sets(batch[s], n_steps[s], page_size, units(batch[s]), 0.5, true, s));

  const auto layer = backend_->load_layer(batch);
  const auto cache = backend_->make_cache(*layer, page_size);
  std::vector<TokenRange> ranges;
  for (size_t s = 0; s < batch.size(); ++s) ranges.push_back({static_cast<int64_t>(s), 0, batch[s].n_tokens});
  backend_->append(*cache, *layer, ranges);
  const auto n = static_cast<int64_t>(batch.size());
  const int64_t unit_count = units(batch[0]), heads = layer->n_q_heads, d = layer->head_dim, capacity = 6;
  auto last_loaded = backend_->make_tensor<int32_t, 3>({n, unit_count, cache->max_pages});
  const std::vector<int32_t> never(static_cast<size_t>(last_loaded.size()), -1);
  backend_->upload(last_loaded.data(), never.data(), static_cast<int64_t>(never.size() * 4));
  const Outputs outputs{backend_->make_tensor<float, 3>({n * most_steps, heads, d}),
                        backend_->make_tensor<float, 2>({n * most_steps, heads})};
  for (int64_t now = 0; now < most_steps; ++now) {
    std::vector<BlockStep> steps;
    std::vector<int32_t> pages, counts;
    for (int64_t s = 0; s < n; ++s) {
      const int64_t step = now - joins[s];
      if (step < 0 || step >= n_steps[s]) continue;
      steps.push_back({static_cast<int32_t>(s), static_cast<int32_t>(batch[s].q_start + step),
                       static_cast<int32_t>(s * most_steps + step),
                       static_cast<int32_t>(std::min(windows[s], step + 1))});
      for (int64_t u = 0; u < unit_count; ++u) {
        const auto& chosen = sets[s][u][step];
        ASSERT_LE(static_cast<int64_t>(chosen.size()), capacity);
        counts.push_back(static_cast<int32_t>(chosen.size()));
        pages.insert(pages.end(), chosen.begin(), chosen.end());
        pages.resize(counts.size() * capacity);
      }
    }
    const auto rows = static_cast<int64_t>(steps.size());
    const Block block = backend_->make_block(std::move(steps));
    const PageLists lists{backend_->make_tensor<int32_t, 3>({rows, unit_count, capacity}),
                          backend_->make_tensor<int32_t, 2>({rows, unit_count})};
    backend_->upload(lists.pages.data(), pages.data(), static_cast<int64_t>(pages.size() * 4));
    backend_->upload(lists.count.data(), counts.data(), static_cast<int64_t>(counts.size() * 4));
    const auto previous = backend_->make_tensor<int32_t, 3>({rows, unit_count, capacity});
    backend_->note_loads(block, lists, last_loaded, previous);
    const Partials partials{backend_->make_tensor<float, 4>({rows, window, heads, d}),
                            backend_->make_tensor<float, 3>({rows, window, heads})};
    backend_->attend(*layer, *cache, block, {GetParam(), Combine::mean}, lists, previous, window, partials);
    backend_->merge(block, window, partials, outputs);
  }
  const std::vector<float> out = backend_->to_host(outputs.out), lse = backend_->to_host(outputs.lse);
  for (int64_t s = 0; s < n; ++s) {
    const int64_t first = s * most_steps, last = first + n_steps[s];
    WindowReplayResult own;
    own.out.assign(out.begin() + first * heads * d, out.begin() + last * heads * d);
    own.lse.assign(lse.begin() + first * heads, lse.begin() + last * heads);
    EXPECT_LT(largest_error(own, WideLayer(batch[s]), sets[s], page_size, GetParam(), windows[s]),
              float_tolerance)
        << "sequence " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Units, RetroTraps, ::testing::Values(Unit::per_kv_head, Unit::per_query_head),
                         [](const auto& unit) {
                           return unit.param == Unit::per_kv_head ? "PerKvHead" : "PerQueryHead";
                         });

}  // namespace
}  // namespace hindsight::test
