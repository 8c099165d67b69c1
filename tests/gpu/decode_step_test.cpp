// The decode step in one launch, against the oracle's primitives one after another: every step of a window's
// life, ragged batches, all ways to combine, round and treat the newest page. The oracle is given the page
// sets that the launch chose, which must be right for the oracle's scores up to rounding.

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

struct StepCase {
  BatchShape shape;
  int64_t window = 1, steps = 6;
  Combine combine = Combine::mean;
  bool round_to_storage = false;
  Newest newest = Newest::forced;
  std::vector<int32_t> k;  ///< per sequence
};

/// A batch with its prompt appended, and what a decode step keeps.
class Decoder {
 public:
  Decoder(Backend& backend, const StepCase& c, const std::vector<LayerTensors>& batch)
      : c_(c),
        backend_(backend),
        layer_(backend.load_layer(batch)),
        cache_(backend.make_cache(*layer_, c.shape.page_size)) {
    std::vector<TokenRange> prompt;
    int64_t rows = 0;
    for (size_t s = 0; s < batch.size(); ++s) {
      prompt.push_back({static_cast<int64_t>(s), 0, c.shape.prompt_tokens[s]});
      first_row_.push_back(rows);
      rows += c.shape.n_tokens[s] - c.shape.prompt_tokens[s];
    }
    backend.append(*cache_, *layer_, prompt);
    const auto n = static_cast<int64_t>(batch.size());
    const int64_t units = layer_->n_kv_heads, heads = layer_->n_q_heads, d = layer_->head_dim;
    capacity_ = cache_->max_pages;
    lists_ = {filled<3>(backend, {n, units, capacity_}, -9), filled<2>(backend, {n, units}, -9)};
    previous_ = filled<3>(backend, {n, units, capacity_}, -9);
    last_loaded_ = filled<3>(backend, {n, units, cache_->max_pages}, -1);
    scores_ = poisoned<3>(backend, {n, units, cache_->max_pages});
    partials_ = {poisoned<4>(backend, {n, c.window, heads, d}), poisoned<3>(backend, {n, c.window, heads})};
    // Rows that no step writes are 0, not poison: they are compared too.
    outputs_ = {
        uploaded<3>(backend, {rows, heads, d}, std::vector<float>(static_cast<size_t>(rows * heads * d))),
        uploaded<2>(backend, {rows, heads}, std::vector<float>(static_cast<size_t>(rows * heads)))};
  }

  Block block(int64_t step) {
    std::vector<BlockStep> steps;
    for (size_t s = 0; s < first_row_.size(); ++s)
      steps.push_back({static_cast<int32_t>(s), static_cast<int32_t>(c_.shape.prompt_tokens[s] + step),
                       static_cast<int32_t>(first_row_[s] + step),
                       static_cast<int32_t>(std::min(c_.window, step + 1))});
    return backend_.make_block(std::move(steps));
  }

  bool decode_step(int64_t step) { return decode_step(block(step)); }
  bool decode_step(const Block& block) {
    return backend_.decode_step(*cache_, *layer_, block,
                                {.combine = c_.combine,
                                 .round_to_storage = c_.round_to_storage,
                                 .newest = c_.newest,
                                 .k = c_.k,
                                 .window = c_.window,
                                 .lists = lists_,
                                 .last_loaded = last_loaded_,
                                 .outputs = outputs_});
  }

  /// Scores [n, U, J] of the step, its token appended.
  std::vector<float> append_and_score(int64_t step) {
    std::vector<TokenRange> next;
    for (size_t s = 0; s < first_row_.size(); ++s)
      next.push_back(
          {static_cast<int64_t>(s), c_.shape.prompt_tokens[s] + step, c_.shape.prompt_tokens[s] + step + 1});
    backend_.append(*cache_, *layer_, next);
    backend_.score_pages(*layer_, *cache_, block(step), {Unit::per_kv_head, c_.combine}, c_.round_to_storage,
                         scores_);
    return backend_.to_host(scores_);
  }
  void attend(int64_t step, const HostLists& lists) {
    const Block on_backend = block(step);
    const PageLists given = lists.on(backend_);
    backend_.note_loads(on_backend, given, last_loaded_, previous_);
    backend_.attend(*layer_, *cache_, on_backend, {}, given, previous_, c_.window, partials_);
    backend_.merge(on_backend, c_.window, partials_, outputs_);
  }

  HostLists lists() {
    return {static_cast<int64_t>(first_row_.size()), layer_->n_kv_heads, capacity_,
            backend_.to_host(lists_.pages), backend_.to_host(lists_.count)};
  }
  /// The cache as it was before the step.
  void rewind(int64_t step) {
    std::vector<int64_t> to;
    for (const int64_t prompt : c_.shape.prompt_tokens) to.push_back(prompt + step);
    backend_.truncate(*cache_, *layer_, to);
  }
  void clear() {
    const std::vector<float> zeros(static_cast<size_t>(outputs_.out.size()));
    backend_.upload(outputs_.out.data(), zeros.data(), static_cast<int64_t>(zeros.size() * sizeof(float)));
  }
  std::vector<float> out() { return backend_.to_host(outputs_.out); }
  std::vector<float> lse() { return backend_.to_host(outputs_.lse); }
  std::vector<int32_t> last_loaded() { return backend_.to_host(last_loaded_); }
  /// Scores of all pages by the summaries as they stand, for the last query.
  std::vector<float> scores_now(int64_t step) {
    backend_.score_pages(*layer_, *cache_, block(step), {}, false, scores_);
    return backend_.to_host(scores_);
  }

 private:
  StepCase c_;
  Backend& backend_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int64_t> first_row_;
  int64_t capacity_ = 0;
  PageLists lists_;
  Tensor<int32_t, 3> previous_, last_loaded_;
  Tensor<float, 3> scores_;
  Partials partials_;
  Outputs outputs_;
};

/// The lists are ascending, have the pages that k and `newest` ask for, and no page that was left out has a
/// better score than one that was taken, but for rounding.
void expect_best_pages(const StepCase& c, int64_t step, const HostLists& lists,
                       const std::vector<float>& scores) {
  const int64_t pages = static_cast<int64_t>(scores.size()) / (lists.n * lists.units);
  const Tolerance tolerance =
      c.round_to_storage ? rounded_score_tolerance(c.shape.dtype) : Tolerance{1e-3, 1e-4};
  for (int64_t row = 0; row < lists.n * lists.units; ++row) {
    const auto s = static_cast<size_t>(row / lists.units);
    const auto newest = static_cast<int32_t>((c.shape.prompt_tokens[s] + step) / c.shape.page_size);
    const int64_t existing = newest + 1;
    int64_t wanted = c.k[s];
    if (c.newest == Newest::extra) wanted = c.k[s] + 1;
    if (c.newest == Newest::forced) wanted = std::max(c.k[s], 1);
    ASSERT_EQ(lists.count[row], std::min(wanted, existing)) << "row " << row;
    const int32_t* listed = &lists.pages[row * lists.capacity];
    const std::set<int32_t> taken(listed, listed + lists.count[row]);
    ASSERT_EQ(static_cast<int64_t>(taken.size()), lists.count[row]);
    ASSERT_TRUE(std::is_sorted(listed, listed + lists.count[row]));
    if (c.newest != Newest::competes) {
      ASSERT_TRUE(taken.contains(newest));
    }
    double worst_taken = INFINITY, best_left = -INFINITY;
    for (int32_t page = 0; page < existing; ++page) {
      if (page == newest && c.newest != Newest::competes) continue;
      const double score = scores[row * pages + page];
      if (taken.contains(page))
        worst_taken = std::min(worst_taken, score);
      else
        best_left = std::max(best_left, score);
    }
    if (std::isinf(worst_taken) || std::isinf(best_left)) continue;
    ASSERT_LE(best_left, worst_taken + tolerance.absolute + tolerance.relative * std::abs(best_left))
        << "row " << row << " step " << step;
  }
}

class GpuDecodeStep : public GpuTest<::testing::TestWithParam<int>> {
 protected:
  void check(const StepCase& c) {
    const auto batch = random_batch(c.shape);
    Decoder cuda(*cuda_, c, batch), oracle(*oracle_, c, batch);
    for (int64_t step = 0; step < c.steps; ++step) {
      if (!cuda.decode_step(step)) return one_launch_refused();
      const HostLists lists = cuda.lists();
      ASSERT_NO_FATAL_FAILURE(expect_best_pages(c, step, lists, oracle.append_and_score(step)));
      oracle.attend(step, lists);
      ASSERT_NO_FATAL_FAILURE(expect_close("out", cuda.out(), oracle.out(), attention_tolerance));
      ASSERT_NO_FATAL_FAILURE(expect_close("lse", cuda.lse(), oracle.lse(), attention_tolerance));
      if (c.window > 1) {
        ASSERT_EQ(cuda.last_loaded(), oracle.last_loaded());
      }
      // Summaries cover the appended token.
      ASSERT_NO_FATAL_FAILURE(
          expect_close("summaries", cuda.scores_now(step), oracle.scores_now(step), score_tolerance));
    }
  }
};

StepCase random_case(uint64_t seed) {
  std::mt19937_64 generator(seed);
  const auto pick = [&](auto... values) {
    const std::vector<int64_t> choices{static_cast<int64_t>(values)...};
    return choices[generator() % choices.size()];
  };
  StepCase c;
  c.shape.seed = seed;
  c.shape.dtype = static_cast<DType>(pick(DType::float16, DType::bfloat16));
  c.shape.head_dim = pick(64, 80, 96, 128);
  c.shape.group = pick(1, 4, 5, 7, 8, 16);
  c.shape.n_kv_heads = pick(1, 2, 3, 8);
  c.shape.page_size = pick(16, 32, 48, 64);
  c.window = pick(1, 2, 4, 8, 16);
  while (c.window * c.shape.group > 64) c.window /= 2;
  c.combine = static_cast<Combine>(pick(Combine::max, Combine::mean, Combine::sum));
  c.round_to_storage = pick(0, 0, 1) == 1;
  c.newest = static_cast<Newest>(pick(Newest::forced, Newest::competes, Newest::extra));
  const int64_t sequences = pick(1, 2, 3, 20);
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t prompt = 1 + static_cast<int64_t>(generator() % 900);
    c.shape.prompt_tokens.push_back(prompt);
    c.shape.n_tokens.push_back(prompt + c.steps + 3);
    const int64_t pages = (prompt + c.steps) / c.shape.page_size + 1;
    // From none to more than there are.
    c.k.push_back(static_cast<int32_t>(generator() % static_cast<uint64_t>(pages + 2)));
  }
  return c;
}

TEST_P(GpuDecodeStep, EqualsPrimitivesOfTheOracle) { check(random_case(static_cast<uint64_t>(GetParam()))); }

INSTANTIATE_TEST_SUITE_P(RandomShapes, GpuDecodeStep, ::testing::Range(0, 32));

class GpuDecodeStepLarge : public GpuDecodeStep {};

// As benchmarked: clusters of 16 blocks, and more pages than threads.
TEST_P(GpuDecodeStepLarge, ShapesOfTheBenchmark) {
  const auto [batch, window] =
      std::array<std::pair<int, int64_t>, 4>{{{1, 1}, {1, 8}, {8, 4}, {2, 16}}}[GetParam()];
  StepCase c;
  c.shape = {.n_tokens = {},
             .prompt_tokens = {},
             .n_kv_heads = 8,
             .group = 4,
             .head_dim = 128,
             .page_size = 16,
             .dtype = DType::bfloat16};
  c.window = window;
  c.steps = 3;
  for (int s = 0; s < batch; ++s) {
    c.shape.prompt_tokens.push_back(batch == 1 ? 12007 : 2500 + 331 * s);
    c.shape.n_tokens.push_back(c.shape.prompt_tokens.back() + c.steps);
    c.k.push_back(128);
  }
  check(c);
}
INSTANTIATE_TEST_SUITE_P(Shapes, GpuDecodeStepLarge, ::testing::Range(0, 4));

class GpuDecodeStepWindows : public GpuDecodeStep {};

// Windows of as many rows as their tiles have, and replayed until they are full and on.
TEST_P(GpuDecodeStepWindows, EqualTheOracleOnceTheyAreFull) {
  const auto [window, group, head_dim] =
      std::array<std::array<int64_t, 3>, 6>{
          {{8, 4, 128}, {16, 4, 128}, {8, 8, 64}, {4, 16, 128}, {16, 1, 96}, {4, 4, 128}}}
          .at(static_cast<size_t>(GetParam()));
  StepCase c;
  c.window = window;
  c.steps = window + 2;
  c.shape = {.n_tokens = {},
             .prompt_tokens = {640, 333},
             .n_kv_heads = 2,
             .group = group,
             .head_dim = head_dim,
             .dtype = DType::bfloat16};
  for (const int64_t prompt : c.shape.prompt_tokens) c.shape.n_tokens.push_back(prompt + c.steps);
  c.k = {12, 7};
  check(c);
}
INSTANTIATE_TEST_SUITE_P(Shapes, GpuDecodeStepWindows, ::testing::Range(0, 6));

class GpuDecodeStepExact : public GpuTest<> {
 protected:
  /// Pages of the last step over keys that repeat every `period` pages: equal scores have equal bits.
  std::vector<int32_t> pages_chosen(int64_t n_pages, int64_t period, int32_t k) {
    StepCase c;
    c.shape = {
        .n_tokens = {n_pages * 16 + 5}, .prompt_tokens = {n_pages * 16 + 4}, .n_kv_heads = 1, .group = 4};
    c.k = {k};
    auto batch = random_batch(c.shape);
    const size_t page_bytes = 16 * 64 * 2;
    for (int64_t page = period; page < n_pages; ++page)
      std::memcpy(batch[0].k.data() + page * page_bytes, batch[0].k.data() + page % period * page_bytes,
                  page_bytes);
    Decoder cuda(*cuda_, c, batch), oracle(*oracle_, c, batch);
    if (!cuda.decode_step(0)) return {};
    const std::vector<float> scores = oracle.append_and_score(0);
    // By the oracle's order of the first period: ties to the lower page.
    std::vector<int32_t> order(static_cast<size_t>(n_pages));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    std::vector<int32_t> expected(order.begin(), order.begin() + (k - 1));
    std::sort(expected.begin(), expected.end());
    expected.push_back(static_cast<int32_t>(n_pages));
    const HostLists lists = cuda.lists();
    EXPECT_EQ(std::vector<int32_t>(lists.pages.begin(), lists.pages.begin() + lists.count[0]), expected);
    return expected;
  }
};

TEST_F(GpuDecodeStepExact, TiesGoToTheLowerPage) {
  if (pages_chosen(40, 1, 7).empty()) return one_launch_refused();
  pages_chosen(700, 1, 100);  // more equal scores than are ranked directly
  pages_chosen(700, 7, 350);
  pages_chosen(900, 3, 899);
}

TEST_F(GpuDecodeStepExact, RunsAgreeBitForBitAndAWindowChangesNothingOfItsOwnRow) {
  StepCase c;
  c.shape = {.n_tokens = {5010}, .prompt_tokens = {5000}, .n_kv_heads = 2, .group = 4, .head_dim = 128};
  c.k = {40};
  const auto batch = random_batch(c.shape);
  const auto run = [&](int64_t window) {
    c.window = window;
    Decoder decoder(*cuda_, c, batch);
    for (int64_t step = 0; step < 6; ++step)
      if (!decoder.decode_step(step)) return std::vector<float>();
    return decoder.out();
  };
  const std::vector<float> alone = run(1), revised = run(4), again = run(4);
  if (alone.empty()) return one_launch_refused();
  EXPECT_EQ(0, std::memcmp(revised.data(), again.data(), again.size() * sizeof(float)));
  const size_t row = 8 * 128;
  EXPECT_EQ(0, std::memcmp(&alone[5 * row], &revised[5 * row], row * sizeof(float)))
      << "the last query's own row";
  EXPECT_NE(0, std::memcmp(&alone[2 * row], &revised[2 * row], row * sizeof(float)))
      << "a row that was revised";
}

// What a graph replays is what ran when it was recorded.
TEST_F(GpuDecodeStepExact, ARecordingRepeatsTheStep) {
  StepCase c;
  c.shape = {.n_tokens = {1010}, .prompt_tokens = {1000}, .n_kv_heads = 2, .group = 4, .head_dim = 128};
  c.k = {20};
  const auto batch = random_batch(c.shape);
  Decoder recorded(*cuda_, c, batch), plain(*cuda_, c, batch);
  if (!plain.decode_step(0)) return one_launch_refused();
  const Block block = recorded.block(0);
  int calls = 0;
  const auto recording = cuda_->record([&] { recorded.rewind(0); },
                                       [&] {
                                         ++calls;
                                         recorded.decode_step(block);
                                       });
  EXPECT_EQ(calls, 2);
  recorded.clear();
  EXPECT_GT(recording->replay_us(), 0);
  EXPECT_EQ(recorded.out(), plain.out());
}

}  // namespace
}  // namespace hindsight::test
