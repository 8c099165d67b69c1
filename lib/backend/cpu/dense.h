#pragma once
// Everything that looks at all keys: the dense reference and the true mass of pages. Rows are taken in tiles;
// the logits of a tile lie token by token, with the tile's rows side by side.

#include "backend/cpu/column_product.h"
#include "backend/cpu/dense_rows.h"
#include "backend/cpu/row_tiles.h"
#include "backend/cpu/softmax.h"

namespace hindsight::cpu {

/// Tiles whose logits (rows x G x tokens) stay in the cache, or single rows where they cannot. Every tile
/// reads all keys and values.
inline std::vector<RowTile> dense_tiles(const Block& block, int64_t group) {
  constexpr int64_t most_rows = 64, tile_logits = 1 << 19;
  return row_tiles(block, std::max<int64_t>(1, most_rows / group), [&](int64_t rows, int64_t position) {
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

/// A thread's memory for a tile of rows of a KV head, and what is done to it step by step. Row r of the tile
/// is head r % G of its step r / G; rows that fill up the last vector are zero queries that nobody reads.
template <class Real>
class DenseTile {
 public:
  using Lanes = Eigen::Array<Real, Eigen::Dynamic, 1>;

  /// Logits over tokens 0 .. last position of the tile; -inf after a row's own position.
  void find_logits(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, RowTile tile,
                   int64_t kv_head) {
    const int64_t group = layer.group(), d = layer.head_dim, sequence = block.steps[tile.begin].sequence;
    rows_ = (tile.end - tile.begin) * group;
    lanes_ = (rows_ + kRowLanes<Real> - 1) / kRowLanes<Real> * kRowLanes<Real>;
    tokens_ = block.steps[tile.end - 1].position + 1;
    MutableRows<Real> queries = query_memory_.sized(d, lanes_);
    queries.setZero();
    for (int64_t r = 0; r < rows_; ++r)
      queries.col(r) = static_cast<Real>(layer.scale) *
                       Rows<Real>(layer.query(sequence, block.steps[tile.begin + r / group].position,
                                              kv_head * group + r % group),
                                  d, 1);
    MutableRows<Real> logits = weight_memory_.sized(tokens_, lanes_);
    multiply({queries.data(), cache.sequences[sequence].k.at(kv_head, 0), d, 1, logits.data(), lanes_,
              tokens_, d, false});
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t visible = block.steps[tile.begin + r / group].position + 1;
      logits.col(r).tail(tokens_ - visible).setConstant(minus_infinity<Real>());
    }
  }

  /// Turns logits into softmax weights; the LSE of a row is lse()[r] afterwards. Sums are of pieces, as those
  /// of the values, so that rounding does not grow with the context.
  void find_weights() {
    Lanes largest = Lanes::Constant(lanes_, minus_infinity<Real>()), sum = Lanes::Zero(lanes_);
    for (int64_t token = 0; token < tokens_; ++token) largest = largest.max(terms(token));
    for (int64_t begin = 0; begin < tokens_; begin += piece_tokens) {
      Lanes piece = Lanes::Zero(lanes_);
      for (int64_t token = begin; token < std::min(begin + piece_tokens, tokens_); ++token)
        piece += exponentials(token, largest);
      sum += piece;
    }
    const Lanes inverse = sum.inverse();
    for (int64_t token = 0; token < tokens_; ++token) terms(token) *= inverse;
    lse_ = largest + sum.log();
  }
  const Lanes& lse() const { return lse_; }

  /// Turns logits into terms of the mass, given the LSE of each step and head.
  void find_terms(RowTile tile, int64_t kv_head, View<Real, 2> lse) {
    const int64_t group = rows_ / (tile.end - tile.begin);
    lse_ = Lanes::Zero(lanes_);
    for (int64_t r = 0; r < rows_; ++r) lse_[r] = lse(tile.begin + r / group, kv_head * group + r % group);
    for (int64_t token = 0; token < tokens_; ++token) exponentials(token, lse_);
  }

  /// Adds the masses of pages of p tokens, of each row to that of its unit; -inf says that nothing was added
  /// yet. Terms that are no normal numbers are 0.
  void add_masses(const CpuLayer<Real>& layer, const Block& block, RowTile tile, int64_t kv_head, Unit unit,
                  int64_t p, View<Real, 3> mass) {
    const int64_t group = layer.group();
    Lanes sum(lanes_);
    for (int64_t page = 0; page * p < tokens_; ++page) {
      sum.setZero();
      for (int64_t token = page * p; token < std::min((page + 1) * p, tokens_); ++token)
        sum += terms(token).unaryExpr([](Real term) { return normal_or_zero(term); });
      for (int64_t r = 0; r < rows_; ++r) {
        const int64_t i = tile.begin + r / group;
        if (page * p > block.steps[i].position) continue;
        Real& into = mass(i, unit == Unit::per_kv_head ? kv_head : kv_head * group + r % group, page);
        into = into == minus_infinity<Real>() ? sum[r] : into + sum[r];
      }
    }
  }

  /// Weighted sums of the values.
  void find_outputs(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block,
                    RowTile tile, int64_t kv_head, View<Real, 3> out) {
    const int64_t group = layer.group(), d = layer.head_dim;
    const Real* const values = cache.sequences[block.steps[tile.begin].sequence].v.at(kv_head, 0);
    MutableRows<Real> sums = output_memory_.sized(d, lanes_);
    for (int64_t begin = 0; begin < tokens_; begin += piece_tokens)
      multiply({terms(begin).data(), values + begin * d, 1, d, sums.data(), lanes_, d,
                std::min(piece_tokens, tokens_ - begin), begin > 0});
    for (int64_t r = 0; r < rows_; ++r)
      MutableRows<Real>(&out(tile.begin + r / group, kv_head * group + r % group, 0), d, 1) = sums.col(r);
  }

 private:
  /// Tokens whose values stay in the cache while all rows meet them.
  static constexpr int64_t piece_tokens = 64;

  Eigen::Map<Lanes> terms(int64_t token) {
    return Eigen::Map<Lanes>(weight_memory_.data() + token * lanes_, lanes_);
  }
  /// Of a token's logits less the shift of each row, in their place.
  Eigen::Map<Lanes> exponentials(int64_t token, const Lanes& shift) {
    Eigen::Map<Lanes> of_token = terms(token);
    exponentials_in_place(of_token.data(), lanes_, shift);
    return of_token;
  }

  int64_t rows_ = 0, lanes_ = 0, tokens_ = 0;
  ReusedMatrix<Real> query_memory_, weight_memory_, output_memory_;
  Lanes lse_;
};

/// Calls f(DenseTile or DenseRows, tile, KV head) for all tiles of the block, with the tile's logits. Tiles
/// of a head follow one another: they read the same keys.
template <class Real, class F>
void for_dense_tiles(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, F&& f) {
  const std::vector<RowTile> tiles = dense_tiles(block, layer.group());
#pragma omp parallel if (worth_threads(dense_work(layer, block)))
  {
    DenseTile<Real> vectors;
    DenseRows<Real> rows;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t kv_head = 0; kv_head < layer.n_kv_heads; ++kv_head) {
      for (size_t t = 0; t < tiles.size(); ++t) {
        const auto take = [&](auto& memory) {
          memory.find_logits(layer, cache, block, tiles[t], kv_head);
          f(memory, tiles[t], kv_head);
        };
        if ((tiles[t].end - tiles[t].begin) * layer.group() < kRowLanes<Real>)
          take(rows);
        else
          take(vectors);
      }
    }
  }
}

/// Backend::dense, and Backend::page_mass of the same rows where `mass` is given: its terms are the weights.
template <class Real>
void dense(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, View<Real, 3> out,
           View<Real, 2> lse, Unit unit = Unit::per_kv_head, View<Real, 3> mass = {}) {
  if (mass.data != nullptr) std::fill_n(mass.data, mass.size(), minus_infinity<Real>());
  for_dense_tiles(layer, cache, block, [&](auto& memory, RowTile tile, int64_t kv_head) {
    memory.find_weights();
    for (int64_t r = 0; r < (tile.end - tile.begin) * layer.group(); ++r)
      lse(tile.begin + r / layer.group(), kv_head * layer.group() + r % layer.group()) = memory.lse()[r];
    if (mass.data != nullptr) memory.add_masses(layer, block, tile, kv_head, unit, cache.page_size, mass);
    memory.find_outputs(layer, cache, block, tile, kv_head, out);
  });
}

/// Backend::page_mass.
template <class Real>
void page_mass(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, Unit unit,
               View<Real, 2> lse, View<Real, 3> mass) {
  std::fill_n(mass.data, mass.size(), minus_infinity<Real>());
  for_dense_tiles(layer, cache, block, [&](auto& memory, RowTile tile, int64_t kv_head) {
    memory.find_terms(tile, kv_head, lse);
    memory.add_masses(layer, block, tile, kv_head, unit, cache.page_size, mass);
  });
}

}  // namespace hindsight::cpu
