#pragma once
// The open loop of retroattention driven by given page lists: what methods do, with the choice of pages in
// the test's hands.

#include <map>
#include <set>

#include "support/attention_case.h"

namespace hindsight::test {

/// sets[u][t]: pages that unit u loads at decode step t (counted from the first replayed one).
using PageChoice = std::vector<std::vector<std::set<int32_t>>>;

struct WindowReplayResult {
  std::vector<float> out;  ///< [steps, Hq, d]
  std::vector<float> lse;  ///< [steps, Hq]
  std::vector<float> first_out, first_lse;
};

/// Replays steps [0, n) with window w in blocks of `block_steps`.
inline WindowReplayResult replay_window(Backend& backend, const LayerTensors& tensors, const PageChoice& sets,
                                        int64_t page_size, Unit unit, int64_t window, int64_t block_steps) {
  const auto layer = backend.load_layer({&tensors, 1});
  const auto cache = backend.make_cache(*layer, page_size);
  const TokenRange all{0, 0, tensors.n_tokens};
  backend.append(*cache, *layer, {&all, 1});
  const auto n = static_cast<int64_t>(sets.front().size());
  const int64_t units = layer->units(unit), heads = layer->n_q_heads, d = layer->head_dim;
  int64_t capacity = 1;
  for (const auto& unit_sets : sets)
    for (const auto& pages : unit_sets) capacity = std::max(capacity, static_cast<int64_t>(pages.size()));

  auto last_loaded = backend.make_tensor<int32_t, 3>({1, units, cache->max_pages});
  const std::vector<int32_t> never(static_cast<size_t>(last_loaded.size()), -1);
  backend.upload(last_loaded.data(), never.data(), static_cast<int64_t>(never.size() * sizeof(int32_t)));
  const Outputs outputs{backend.make_tensor<float, 3>({n, heads, d}),
                        backend.make_tensor<float, 2>({n, heads})};
  const Outputs firsts{backend.make_tensor<float, 3>({n, heads, d}),
                       backend.make_tensor<float, 2>({n, heads})};

  for (int64_t begin = 0; begin < n; begin += block_steps) {
    const int64_t count = std::min(block_steps, n - begin);
    std::vector<BlockStep> steps;
    std::vector<int32_t> pages(static_cast<size_t>(count * units * capacity), -7), counts;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t step = begin + i;
      steps.push_back({0, static_cast<int32_t>(tensors.q_start + step), static_cast<int32_t>(step),
                       static_cast<int32_t>(std::min(window, step + 1))});
      for (int64_t u = 0; u < units; ++u) {
        counts.push_back(static_cast<int32_t>(sets[u][step].size()));
        std::copy(sets[u][step].begin(), sets[u][step].end(), pages.begin() + (i * units + u) * capacity);
      }
    }
    const Block block = backend.make_block(std::move(steps));
    const PageLists lists{backend.make_tensor<int32_t, 3>({count, units, capacity}),
                          backend.make_tensor<int32_t, 2>({count, units})};
    backend.upload(lists.pages.data(), pages.data(), static_cast<int64_t>(pages.size() * sizeof(int32_t)));
    backend.upload(lists.count.data(), counts.data(), static_cast<int64_t>(counts.size() * sizeof(int32_t)));
    const auto previous = backend.make_tensor<int32_t, 3>({count, units, capacity});
    backend.note_loads(block, lists, last_loaded, previous);
    const Partials partials{backend.make_tensor<float, 4>({count, window, heads, d}),
                            backend.make_tensor<float, 3>({count, window, heads})};
    backend.attend(*layer, *cache, block, {unit, Combine::mean}, lists, previous, window, partials);
    backend.merge(block, 1, partials, firsts);
    backend.merge(block, window, partials, outputs);
  }
  return {backend.to_host(outputs.out), backend.to_host(outputs.lse), backend.to_host(firsts.out),
          backend.to_host(firsts.lse)};
}

/// What query t must have in the end: attention over the union of its window's sets, restricted to tokens <=
/// its position.
inline Attended expected_output(const WideLayer& layer, const PageChoice& sets, int64_t page_size, Unit unit,
                                int64_t window, int64_t step, int64_t q_head) {
  const int64_t u = unit == Unit::per_kv_head ? q_head / layer.group() : q_head;
  std::set<int32_t> shown;
  for (int64_t later = step; later < std::min(step + window, static_cast<int64_t>(sets[u].size())); ++later)
    shown.insert(sets[u][later].begin(), sets[u][later].end());
  const int64_t position = layer.t.q_start + step;
  return attend_tokens(layer, position, q_head, tokens_of(shown, page_size, position));
}

/// Random page sets; the newest page in each of them where `with_newest`.
inline PageChoice random_sets(const LayerTensors& tensors, int64_t steps, int64_t page_size, int64_t units,
                              double share, bool with_newest, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform;
  PageChoice sets(static_cast<size_t>(units));
  for (auto& unit_sets : sets) {
    for (int64_t step = 0; step < steps; ++step) {
      const auto newest = static_cast<int32_t>((tensors.q_start + step) / page_size);
      std::set<int32_t> pages;
      for (int32_t page = 0; page <= newest; ++page)
        if (uniform(generator) < share || (with_newest && page == newest)) pages.insert(page);
      unit_sets.push_back(pages);
    }
  }
  return sets;
}

/// Largest error of a replay over all elements, relative to max(1, norm of the expected output); fails on
/// what is not finite.
inline double largest_error(const WindowReplayResult& result, const WideLayer& layer, const PageChoice& sets,
                            int64_t page_size, Unit unit, int64_t window) {
  const int64_t heads = layer.t.n_q_heads, d = layer.t.head_dim;
  double largest = 0;
  for (int64_t step = 0; step < static_cast<int64_t>(sets.front().size()); ++step) {
    for (int64_t head = 0; head < heads; ++head) {
      const Attended expected = expected_output(layer, sets, page_size, unit, window, step, head);
      const double lse = result.lse[step * heads + head];
      if (std::isinf(expected.lse)) {
        if (lse != expected.lse) return std::numeric_limits<double>::infinity();
      } else {
        if (!std::isfinite(lse)) return std::numeric_limits<double>::infinity();
        largest = std::max(largest, std::abs(lse - expected.lse) / std::max(1.0, std::abs(expected.lse)));
      }
      for (int64_t c = 0; c < d; ++c) {
        const double out = result.out[(step * heads + head) * d + c];
        if (!std::isfinite(out)) return std::numeric_limits<double>::infinity();
        largest = std::max(largest, std::abs(out - expected.out[c]) / std::max(1.0, expected.norm()));
      }
    }
  }
  return largest;
}

}  // namespace hindsight::test
