#pragma once
// Everything that looks at all keys: the dense reference and the true mass of pages. Rows are taken in tiles,
// so that a product of tile queries with all keys is one matrix product.

#include "backend/cpu/row_tiles.h"
#include "backend/cpu/softmax.h"

namespace hindsight::cpu {

/// Tiles whose logits (rows x G x tokens) stay in the cache, or single rows where they cannot. Every tile's
/// products pack the keys and the values: the larger ones the better.
inline std::vector<RowTile> dense_tiles(const Block& block, int64_t group) {
  constexpr int64_t tile_logits = 1 << 20;
  return row_tiles(block, block.size(), [&](int64_t rows, int64_t position) {
    return rows * group * (position + 1) <= tile_logits;
  });
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

/// Adds the masses of a row's tokens to those of their pages; -inf says that nothing was added yet. Terms
/// that are no normal numbers are 0.
template <class Real>
void add_mass(const Real* terms, int64_t tokens, int64_t p, Real* mass) {
  for (int64_t page = 0; page * p < tokens; ++page) {
    const int64_t count = std::min(p, tokens - page * p);
    const Eigen::Map<const Eigen::Array<Real, Eigen::Dynamic, 1>> held(terms + page * p, count);
    const Real sum = (held < std::numeric_limits<Real>::min()).select(Real(0), held).sum();
    mass[page] = mass[page] == minus_infinity<Real>() ? sum : mass[page] + sum;
  }
}

/// Backend::dense, and Backend::page_mass of the same rows where `mass` is given: its terms are the weights.
template <class Real>
void dense(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, View<Real, 3> out,
           View<Real, 2> lse, Unit unit = Unit::per_kv_head, View<Real, 3> mass = {}) {
  if (mass.data != nullptr) std::fill_n(mass.data, mass.size(), minus_infinity<Real>());
  const std::vector<RowTile> tiles = dense_tiles(block, layer.group());
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
        for (int64_t r = 0; r < weights.rows(); ++r) {
          const int64_t i = tile.begin + r / group, q_head = kv_head * group + r % group;
          lse(i, q_head) = softmax_in_place(weights.row(r).data(), weights.cols());
          if (mass.data != nullptr)
            add_mass(weights.row(r).data(), block.steps[i].position + 1, cache.page_size,
                     &mass(i, unit == Unit::per_kv_head ? kv_head : q_head, 0));
        }
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
  const std::vector<RowTile> tiles = dense_tiles(block, layer.group());
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
          add_mass(logits.row(r).data(), tokens, p, &mass(i, u, 0));
        }
      }
    }
  }
}

}  // namespace hindsight::cpu
