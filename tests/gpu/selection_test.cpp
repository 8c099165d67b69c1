// Selection, bookkeeping of loads and ranks: exact, so against references written from their definitions.

#include <gtest/gtest.h>

#include <set>

#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

struct Rows {
  std::vector<BlockStep> steps;
  int64_t units = 0, pages = 0, page_size = 0;
  std::vector<float> scores;  ///< [n, units, pages]
  const float* row(int64_t i, int64_t u) const { return scores.data() + (i * units + u) * pages; }
  int64_t existing(int64_t i) const { return steps[i].position / page_size + 1; }
};

/// Scores with `levels` different values, so that few levels give many ties; both zeros are among them.
Rows random_rows(uint64_t seed, int64_t n, int64_t units, int64_t pages, int64_t levels) {
  std::mt19937_64 generator(seed);
  Rows rows{{}, units, pages, 16, {}};
  for (int64_t i = 0; i < n; ++i) {
    const auto position = static_cast<int32_t>(generator() % static_cast<uint64_t>(pages * 16));
    rows.steps.push_back({0, position, static_cast<int32_t>(i), 1});
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t page = 0; page < pages; ++page) {
        const auto level =
            static_cast<float>(generator() % static_cast<uint64_t>(levels)) - static_cast<float>(levels / 2);
        float score = level == 0 && generator() % 2 ? -0.0f : 1.37f * level;
        if (page > position / 16) score = minus_infinity;
        rows.scores.push_back(score);
      }
    }
  }
  return rows;
}

std::vector<int32_t> expected_pages(const Rows& rows, int64_t i, int64_t u, int64_t k, Newest newest) {
  const int64_t newest_page = rows.existing(i) - 1;
  std::vector<int32_t> candidates(
      static_cast<size_t>(newest == Newest::competes ? newest_page + 1 : newest_page));
  std::iota(candidates.begin(), candidates.end(), 0);
  const float* scores = rows.row(i, u);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  const int64_t wanted = newest == Newest::forced ? k - 1 : k;
  candidates.resize(
      static_cast<size_t>(std::clamp<int64_t>(wanted, 0, static_cast<int64_t>(candidates.size()))));
  if (newest != Newest::competes) candidates.push_back(static_cast<int32_t>(newest_page));
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

class GpuSelection : public GpuTest<::testing::TestWithParam<int>> {};

TEST_P(GpuSelection, TopKIsExact) {
  const auto seed = static_cast<uint64_t>(GetParam());
  const int64_t pages = std::array<int64_t, 5>{5, 255, 256, 1031, 8193}[seed % 5];
  const int64_t levels = std::array<int64_t, 4>{1, 3, 50, 1 << 30}[seed % 4];
  const Rows rows = random_rows(seed, 12, 3, pages, levels);
  const BatchShape shape{
      .n_tokens = {pages * rows.page_size}, .prompt_tokens = {1}, .n_kv_heads = 1, .group = 1};
  const auto batch = random_batch(shape);
  const auto layer = cuda_->load_layer(batch);
  const auto cache = cuda_->make_cache(*layer, rows.page_size);
  const Block block = cuda_->make_block(rows.steps);
  const auto scores = uploaded<3>(*cuda_, {block.size(), rows.units, pages}, rows.scores);
  std::mt19937_64 generator(seed);
  std::vector<int32_t> k;
  for (int64_t i = 0; i < block.size(); ++i)
    k.push_back(i == 0   ? 0
                : i == 1 ? 1
                : i == 2 ? static_cast<int32_t>(pages) + 3
                         : static_cast<int32_t>(generator() % static_cast<uint64_t>(pages)));
  for (const Newest newest : {Newest::forced, Newest::competes, Newest::extra}) {
    const PageLists lists{filled<3>(*cuda_, {block.size(), rows.units, pages}, -9),
                          filled<2>(*cuda_, {block.size(), rows.units}, -9)};
    cuda_->select_top_k(*cache, block, scores, k, newest, lists);
    const auto selected = cuda_->to_host(lists.pages), count = cuda_->to_host(lists.count);
    for (int64_t i = 0; i < block.size(); ++i) {
      for (int64_t u = 0; u < rows.units; ++u) {
        const auto expected = expected_pages(rows, i, u, k[i], newest);
        ASSERT_EQ(count[i * rows.units + u], static_cast<int32_t>(expected.size()));
        const auto* first = selected.data() + (i * rows.units + u) * pages;
        ASSERT_EQ(std::vector<int32_t>(first, first + expected.size()), expected)
            << "row " << i << " unit " << u;
      }
    }
  }
}

TEST_P(GpuSelection, LoadsAreNotedInOrder) {
  // Every fifth case has more steps and pages than are noted at once.
  const bool is_long = GetParam() % 5 == 0;
  BatchShape shape = random_batch_shape(static_cast<uint64_t>(GetParam()) + 5000, 900);
  if (is_long) {
    shape.n_tokens = {700 * shape.page_size, 900};
    shape.prompt_tokens = {shape.n_tokens[0] - 700, 300};
  }
  const auto steps = steps_of(shape, Layout::runs, is_long ? 650 : 50, 4);
  const int64_t units = 3, sequences = static_cast<int64_t>(shape.n_tokens.size());
  const HostLists host = random_lists(steps, units, shape.page_size, 0.4, shape.seed);
  const int64_t pages = host.capacity;
  const Block block = cuda_->make_block(steps);
  const auto last_loaded = filled<3>(*cuda_, {sequences, units, pages}, -1);
  const auto previous = filled<3>(*cuda_, {host.n, units, host.capacity}, -9);
  // In two blocks: the second one goes on from the first.
  const int64_t cut = host.n / 3;
  for (const auto& [first, count] : {std::pair{int64_t{0}, cut}, std::pair{cut, host.n - cut}}) {
    const PageLists all = host.on(*cuda_);
    const Block part = cuda_->make_block({steps.begin() + first, steps.begin() + first + count});
    cuda_->note_loads(part,
                      {cuda_->rows_of(all.pages, first, count), cuda_->rows_of(all.count, first, count)},
                      last_loaded, cuda_->rows_of(previous, first, count));
  }
  std::vector<int32_t> last(static_cast<size_t>(sequences * units * pages), -1);
  const auto actual = cuda_->to_host(previous);
  for (int64_t i = 0; i < host.n; ++i) {
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t c = 0; c < host.count[i * units + u]; ++c) {
        const int64_t at = (i * units + u) * host.capacity + c;
        int32_t& expected = last[(steps[i].sequence * units + u) * pages + host.pages[at]];
        ASSERT_EQ(actual[at], expected) << i << " " << u << " " << c;
        expected = steps[i].position;
      }
    }
  }
  EXPECT_EQ(cuda_->to_host(last_loaded), last);
}

/// Against the oracle, whose metrics the tests of the replay hold against their definitions.
TEST_P(GpuSelection, CountsAreThoseOfTheOracle) {
  const auto seed = static_cast<uint64_t>(GetParam());
  const int64_t window = 1 + GetParam() % 5, units_per_kv_head = 1 + GetParam() % 3;
  // Rows at consecutive positions; the first row's step before is not replayed, so it has no counts.
  Rows rows = random_rows(seed + 77, 9, 2 * units_per_kv_head, std::array<int64_t, 3>{7, 300, 1025}[seed % 3],
                          seed % 2 ? 4 : 1000);
  const auto first = static_cast<int32_t>(rows.pages * rows.page_size - 9 - static_cast<int64_t>(seed % 50));
  for (size_t i = 0; i < rows.steps.size(); ++i)
    rows.steps[i] = {0, first + static_cast<int32_t>(i), static_cast<int32_t>(i),
                     static_cast<int32_t>(std::min<int64_t>(window, static_cast<int64_t>(i) + 1))};
  const HostLists loaded = random_lists(rows.steps, rows.units, rows.page_size, 0.6, seed);
  const HostLists best = random_lists(rows.steps, rows.units, rows.page_size, 0.3, seed + 1);
  std::vector<int32_t> before(loaded.count.begin(), loaded.count.end() - rows.units);
  before.insert(before.begin(), static_cast<size_t>(rows.units), 0);

  const auto counts_on = [&](Backend& backend, bool ranked) {
    LayerTensors tensors;
    tensors.dtype = DType::float32;
    tensors.n_tokens = rows.pages * rows.page_size;
    tensors.q_start = tensors.n_tokens;
    tensors.n_q_heads = rows.units;
    tensors.n_kv_heads = 2;
    tensors.head_dim = 64;
    tensors.k.resize(static_cast<size_t>(tensors.n_tokens * 2 * 64 * 4));
    tensors.v = tensors.k;
    const auto layer = backend.load_layer({&tensors, 1});
    const auto cache = backend.make_cache(*layer, rows.page_size);
    const Block block = backend.make_block(rows.steps);
    const PageLists lists = loaded.on(backend);
    const auto last_loaded = filled<3>(backend, {1, rows.units, rows.pages}, -1);
    const auto previous = filled<3>(backend, {loaded.n, loaded.units, loaded.capacity}, -9);
    backend.note_loads(block, lists, last_loaded, previous);
    SelectionSets sets{.units_per_kv_head = units_per_kv_head,
                       .loaded = lists,
                       .previous = previous,
                       .best = best.on(backend),
                       .count_before = backend.make_tensor<int32_t, 2>({loaded.n, loaded.units}),
                       .scores_before = {}};
    backend.upload(sets.count_before.data(), before.data(), static_cast<int64_t>(before.size() * 4));
    if (ranked) {
      sets.scores_before = backend.make_tensor<float, 3>({loaded.n, rows.units, rows.pages});
      backend.from_host(sets.scores_before, rows.scores);
    }
    const auto counts = filled<3>(backend, {loaded.n, loaded.units, SelectionColumns::count(window)}, -9);
    backend.count_selection(*cache, block, sets, window, counts);
    return backend.to_host(counts);
  };
  EXPECT_EQ(counts_on(*cuda_, true), counts_on(*oracle_, true));
  EXPECT_EQ(counts_on(*cuda_, false), counts_on(*oracle_, false));
}

INSTANTIATE_TEST_SUITE_P(RandomRows, GpuSelection, ::testing::Range(0, 20));

}  // namespace
}  // namespace hindsight::test
