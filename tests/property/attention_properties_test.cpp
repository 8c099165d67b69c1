// Properties that hold whatever the input (RapidCheck; the seed is fixed by the test script).

#include <gtest/gtest.h>
// After gtest: RapidCheck's header needs it.
#include <rapidcheck/gtest.h>

#include "support/window_replay.h"

namespace hindsight::test {
namespace {

struct RandomCase {
  CaseShape shape;
  int64_t page_size = 16, window = 1;
  Unit unit = Unit::per_kv_head;
  int64_t steps() const { return shape.n_tokens - shape.prompt_tokens; }
};

RandomCase draw_case() {
  RandomCase c;
  c.shape.prompt_tokens = *rc::gen::inRange(1, 90);
  c.shape.n_tokens = c.shape.prompt_tokens + *rc::gen::inRange(1, 24);
  c.shape.n_kv_heads = *rc::gen::inRange(1, 4);
  c.shape.group = *rc::gen::element(1, 4, 5, 7);
  c.shape.head_dim = *rc::gen::element(8, 20, 64);
  c.shape.dtype = *rc::gen::element(DType::float16, DType::bfloat16, DType::float32);
  c.shape.seed = *rc::gen::arbitrary<uint64_t>();
  c.page_size = *rc::gen::element(1, 3, 8, 16, 100);
  c.window = *rc::gen::inRange(1, 10);
  c.unit = *rc::gen::element(Unit::per_kv_head, Unit::per_query_head);
  return c;
}

int64_t unit_count(const RandomCase& c) {
  return c.unit == Unit::per_kv_head ? c.shape.n_kv_heads : c.shape.n_kv_heads * c.shape.group;
}

RC_GTEST_PROP(RetroProperty, FinalOutputIsAttentionOverTheUnion, ()) {
  const RandomCase c = draw_case();
  const LayerTensors layer = random_layer(c.shape);
  const PageChoice sets =
      random_sets(layer, c.steps(), c.page_size, unit_count(c), *rc::gen::element(0.1, 0.4, 0.9),
                  *rc::gen::arbitrary<bool>(), c.shape.seed);
  const int64_t block = *rc::gen::inRange<int64_t>(1, 30);
  const auto backend = make_cpu_backend();
  const auto result = replay_window(*backend, layer, sets, c.page_size, c.unit, c.window, block);
  RC_ASSERT(largest_error(result, WideLayer(layer), sets, c.page_size, c.unit, c.window) < float_tolerance);
}

RC_GTEST_PROP(RetroProperty, OracleInDoubleIsAsGoodAsItsNameSays, ()) {
  const RandomCase c = draw_case();
  const LayerTensors layer = random_layer(c.shape);
  const PageChoice sets = random_sets(layer, c.steps(), c.page_size, unit_count(c), 0.4,
                                      *rc::gen::arbitrary<bool>(), c.shape.seed);
  const auto oracle = make_cpu_oracle();
  const auto result = replay_window(*oracle, layer, sets, c.page_size, c.unit, c.window, 8);
  // Results come to the host as float.
  RC_ASSERT(largest_error(result, WideLayer(layer), sets, c.page_size, c.unit, c.window) < 2e-7);
}

RC_GTEST_PROP(RetroProperty, AllPagesAreDenseAttention, ()) {
  const RandomCase c = draw_case();
  const LayerTensors tensors = random_layer(c.shape);
  const auto backend = make_cpu_backend();
  const PageChoice sets = random_sets(tensors, c.steps(), c.page_size, unit_count(c), 2.0, true, 1);
  const auto result = replay_window(*backend, tensors, sets, c.page_size, c.unit, c.window, 8);

  const auto layer = backend->load_layer({&tensors, 1});
  const auto cache = backend->make_cache(*layer, c.page_size);
  const TokenRange all{0, 0, tensors.n_tokens};
  backend->append(*cache, *layer, {&all, 1});
  std::vector<BlockStep> steps;
  for (int32_t i = 0; i < c.steps(); ++i)
    steps.push_back({0, static_cast<int32_t>(tensors.q_start) + i, i, 1});
  const Block block = backend->make_block(steps);
  const auto out = backend->make_tensor<float, 3>({c.steps(), layer->n_q_heads, layer->head_dim});
  const auto lse = backend->make_tensor<float, 2>({c.steps(), layer->n_q_heads});
  backend->dense(*layer, *cache, block, out, lse);
  const Outputs outputs{backend->make_tensor<float, 3>(out.shape), backend->make_tensor<float, 2>(lse.shape)};
  backend->upload(outputs.out.data(), result.out.data(), static_cast<int64_t>(result.out.size() * 4));
  backend->upload(outputs.lse.data(), result.lse.data(), static_cast<int64_t>(result.lse.size() * 4));
  const auto errors = backend->make_tensor<float, 3>({FidelityErrors::count, c.steps(), layer->n_q_heads});
  backend->compare(outputs, 0, out, lse, errors);
  for (const float rel_l2 : backend->to_host(backend->rows_of(errors, FidelityErrors::rel_l2, 1)))
    RC_ASSERT(rel_l2 < 1e-4f);
  for (const float recall : backend->to_host(backend->rows_of(errors, FidelityErrors::mass_recall, 1)))
    RC_ASSERT(recall > 1 - 1e-4f);
}

RC_GTEST_PROP(QuestProperty, ScoreBoundsEveryQueryKeyProductOfThePage, ()) {
  const RandomCase c = draw_case();
  const LayerTensors tensors = random_layer(c.shape);
  const WideLayer wide(tensors);
  const auto oracle = make_cpu_oracle();
  const auto layer = oracle->load_layer({&tensors, 1});
  const auto cache = oracle->make_cache(*layer, c.page_size);
  const TokenRange all{0, 0, tensors.n_tokens};
  oracle->append(*cache, *layer, {&all, 1});
  std::vector<BlockStep> steps;
  for (int32_t i = 0; i < c.steps(); ++i)
    steps.push_back({0, static_cast<int32_t>(tensors.q_start) + i, i, 1});
  const Block block = oracle->make_block(steps);
  const auto scores = oracle->make_tensor<float, 3>({c.steps(), layer->n_q_heads, cache->max_pages});
  oracle->score_pages(*layer, *cache, block, {Unit::per_query_head, Combine::mean}, false, scores);
  const std::vector<float> host = oracle->to_host(scores);
  for (int64_t i = 0; i < c.steps(); ++i) {
    const int64_t position = tensors.q_start + i;
    for (int64_t head = 0; head < layer->n_q_heads; ++head) {
      for (int64_t page = 0; page < cache->max_pages; ++page) {
        const double score = host[(i * layer->n_q_heads + head) * cache->max_pages + page];
        if (page * c.page_size > position) {
          RC_ASSERT(score == -std::numeric_limits<double>::infinity());
          continue;
        }
        double bound = 0;  // by the definition, over the keys that are visible
        std::vector<double> low(static_cast<size_t>(tensors.head_dim), 1e300), high(low.size(), -1e300);
        for (const int64_t token : tokens_of({static_cast<int32_t>(page)}, c.page_size, position)) {
          double dot = 0;
          for (int64_t x = 0; x < tensors.head_dim; ++x) {
            const double key = wide.key(token, head / layer->group())[x];
            low[x] = std::min(low[x], key);
            high[x] = std::max(high[x], key);
            dot += wide.query(position, head)[x] * key;
          }
          RC_ASSERT(dot <= score + 1e-5 * std::max(1.0, std::abs(score)));
        }
        for (int64_t x = 0; x < tensors.head_dim; ++x)
          bound += std::max(wide.query(position, head)[x] * low[x], wide.query(position, head)[x] * high[x]);
        RC_ASSERT(std::abs(bound - score) <= 1e-6 * std::max(1.0, std::abs(bound)));
      }
    }
  }
}

RC_GTEST_PROP(SelectionProperty, TopKIsASortWithTiesToTheLowerPage, ()) {
  const int64_t page_size = *rc::gen::inRange(1, 20), position = *rc::gen::inRange(0, 400);
  const auto existing = static_cast<int32_t>(position / page_size + 1);
  // Few distinct values: ties everywhere.
  const auto drawn =
      *rc::gen::container<std::vector<int>>(static_cast<size_t>(existing), rc::gen::inRange(-2, 3));
  const int32_t k = *rc::gen::inRange(0, existing + 3);
  const Newest newest = *rc::gen::element(Newest::forced, Newest::competes, Newest::extra);

  const auto backend = make_cpu_backend();
  LayerTensors tensors = random_layer(
      {.n_tokens = position + 1, .prompt_tokens = position, .n_kv_heads = 1, .group = 1, .head_dim = 4});
  const auto layer = backend->load_layer({&tensors, 1});
  const auto cache = backend->make_cache(*layer, page_size);
  const Block block = backend->make_block({{0, static_cast<int32_t>(position), 0, 1}});
  const auto scores = backend->make_tensor<float, 3>({1, 1, cache->max_pages});
  const std::vector<float> values(drawn.begin(), drawn.end());
  backend->upload(scores.data(), values.data(), existing * 4);
  const PageLists lists{backend->make_tensor<int32_t, 3>({1, 1, existing}),
                        backend->make_tensor<int32_t, 2>({1, 1})};
  backend->select_top_k(*cache, block, scores, {&k, 1}, newest, lists);
  std::vector<int32_t> pages = backend->to_host(lists.pages);
  pages.resize(static_cast<size_t>(backend->to_host(lists.count)[0]));

  std::vector<int32_t> order;
  for (int32_t page = 0; page < existing; ++page)
    if (newest == Newest::competes || page < existing - 1) order.push_back(page);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  const int32_t wanted = newest == Newest::forced ? k - 1 : k;
  order.resize(static_cast<size_t>(std::clamp<int32_t>(wanted, 0, static_cast<int32_t>(order.size()))));
  if (newest != Newest::competes) order.push_back(existing - 1);
  std::sort(order.begin(), order.end());
  RC_ASSERT(pages == order);
}

}  // namespace
}  // namespace hindsight::test
