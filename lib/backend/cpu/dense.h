#pragma once
// Everything that looks at all keys: the dense reference and the true mass of pages. Rows are taken in tiles,
// so that a product of tile queries with all keys is one matrix product.

#include "backend/cpu/softmax.h"

namespace hindsight::cpu {

/// Consecutive rows [begin, end) of a block that belong to one sequence.
struct RowTile {
  int64_t begin = 0, end = 0;
};

/// Tiles whose logits (rows x G x tokens) stay in the cache, or single rows where they cannot.
inline std::vector<RowTile> row_tiles(const Block& block, int64_t group) {
  constexpr int64_t tile_logits = 1 << 19;
  std::vector<RowTile> tiles;
  for (int64_t begin = 0; begin < block.size();) {
    int64_t end = begin + 1;
    while (end < block.size() && block.steps[end].sequence == block.steps[begin].sequence &&
           (end + 1 - begin) * group * (block.steps[end].position + 1) <= tile_logits)
      ++end;
    tiles.push_back({begin, end});
    begin = end;
  }
  return tiles;
}

/// Multiply-adds of the logits of a block.
template <class Real>
int64_t dense_work(const CpuLayer<Real>& layer, const Block& block) {
  int64_t tokens = 0;
  for (const BlockStep& step : block.steps) tokens += step.position + 1;
  return tokens * layer.n_q_heads * layer.head_dim;
}

/// Logits [rows*G, tokens] of a tile and KV head over tokens 0..last position of the tile; -inf after a row's
/// own position.
template <class Real>
MutableRows<Real> causal_logits(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block,
                                RowTile tile, int64_t kv_head, Matrix<Real>& queries,
                                ReusedMatrix<Real>& memory) {
  const int64_t group = layer.group(), d = layer.head_dim, rows = tile.end - tile.begin;
  const int64_t sequence = block.steps[tile.begin].sequence;
  const int64_t tokens = block.steps[tile.end - 1].position + 1;
  queries.resize(rows * group, d);
  for (int64_t row = 0; row < rows; ++row)
    queries.middleRows(row * group, group) =
        Rows<Real>(layer.query(sequence, block.steps[tile.begin + row].position, kv_head * group), group, d);
  const Rows<Real> keys(cache.sequences[sequence].k.at(kv_head, 0), tokens, d);
  MutableRows<Real> logits = memory.sized(rows * group, tokens);
  logits.noalias() = (static_cast<Real>(layer.scale) * queries) * keys.transpose();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t visible = block.steps[tile.begin + row].position + 1;
    logits.block(row * group, visible, group, tokens - visible).setConstant(minus_infinity<Real>());
  }
  return logits;
}

/// Backend::dense.
template <class Real>
void dense(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, View<Real, 3> out,
           View<Real, 2> lse) {
  const std::vector<RowTile> tiles = row_tiles(block, layer.group());
  const int64_t group = layer.group(), d = layer.head_dim;
#pragma omp parallel if (worth_threads(dense_work(layer, block)))
  {
    Matrix<Real> queries;
    ReusedMatrix<Real> logits_memory, out_memory;
#pragma omp for collapse(2) schedule(dynamic)
    for (size_t t = 0; t < tiles.size(); ++t) {
      for (int64_t kv_head = 0; kv_head < layer.n_kv_heads; ++kv_head) {
        const RowTile tile = tiles[t];
        const int64_t sequence = block.steps[tile.begin].sequence;
        MutableRows<Real> weights = causal_logits(layer, cache, block, tile, kv_head, queries, logits_memory);
        for (int64_t r = 0; r < weights.rows(); ++r)
          lse(tile.begin + r / group, kv_head * group + r % group) =
              softmax_in_place(weights.row(r).data(), weights.cols());
        const Rows<Real> values(cache.sequences[sequence].v.at(kv_head, 0), weights.cols(), d);
        MutableRows<Real> tile_out = out_memory.sized(weights.rows(), d);
        tile_out.noalias() = weights * values;
        for (int64_t r = 0; r < weights.rows(); ++r)
          std::copy_n(tile_out.row(r).data(), d,
                      &out(tile.begin + r / group, kv_head * group + r % group, 0));
      }
    }
  }
}

/// Backend::page_mass.
template <class Real>
void page_mass(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, Unit unit,
               View<Real, 2> lse, View<Real, 3> mass) {
  const std::vector<RowTile> tiles = row_tiles(block, layer.group());
  const int64_t group = layer.group(), p = cache.page_size;
  std::fill_n(mass.data, mass.size(), minus_infinity<Real>());
#pragma omp parallel if (worth_threads(dense_work(layer, block)))
  {
    Matrix<Real> queries;
    ReusedMatrix<Real> logits_memory;
#pragma omp for collapse(2) schedule(dynamic)
    for (size_t t = 0; t < tiles.size(); ++t) {
      for (int64_t kv_head = 0; kv_head < layer.n_kv_heads; ++kv_head) {
        const RowTile tile = tiles[t];
        MutableRows<Real> logits = causal_logits(layer, cache, block, tile, kv_head, queries, logits_memory);
        for (int64_t r = 0; r < logits.rows(); ++r) {
          const int64_t i = tile.begin + r / group, q_head = kv_head * group + r % group;
          const int64_t u = unit == Unit::per_kv_head ? kv_head : q_head;
          const int64_t tokens = block.steps[i].position + 1;
          exponentials_in_place(logits.row(r).data(), tokens, lse(i, q_head));
          for (int64_t page = 0; page * p < tokens; ++page) {
            const int64_t count = std::min(p, tokens - page * p);
            const Real sum = logits.row(r).segment(page * p, count).sum();
            // The first head of a unit finds -inf there.
            Real& target = mass(i, u, page);
            target = target == minus_infinity<Real>() ? sum : target + sum;
          }
        }
      }
    }
  }
}

}  // namespace hindsight::cpu
