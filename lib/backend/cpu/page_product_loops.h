#pragma once
// The loops of page_product.h for one width of vectors; of column_product_loops.h's kind: nothing is included
// that has functions.

#include <utility>

#include "backend/cpu/page_product.h"
#include "backend/cpu/vector_type.h"

namespace hindsight::cpu {
namespace {

/// Sums of a key are of the lanes of 32 bytes, then of their halves, whatever the width: a vector of 64 bytes
/// has two keys side by side.
template <class Real, int bytes>
struct KeyLanes {
  // Clang takes references to vectors for aligned, whatever the type says: they are of aligned ones alone.
  using V = typename Vector<Real, bytes>::type;
  using Half = typename Vector<Real, 32>::type;
  static constexpr int lanes = 32 / static_cast<int>(sizeof(Real)), keys = bytes / 32;

  /// 32 bytes of each key.
  static void load(const Real* const (&key)[keys], int64_t c, V& to) {
    if constexpr (keys == 1)
      to = *reinterpret_cast<const V*>(key[0] + c);
    else
      join(key[0] + c, key[1] + c, to, std::make_integer_sequence<int, 2 * lanes>());
  }
  /// The same 32 bytes for each key.
  static void repeat(const Real* from, V& to) {
    const Real* from_each[keys];
    for (const Real*& each : from_each) each = from;
    load(from_each, 0, to);
  }
  /// The sums of both vectors' keys: that of key x is at lane x * lanes / 2 of a.
  static void add_lanes(V& a, const V& b) {
    add_halves(a, b, std::make_integer_sequence<int, keys * lanes>());
    for_distances<lanes / 4>(a);
  }

 private:
  template <int... x>
  static void join(const Real* a, const Real* b, V& to, std::integer_sequence<int, x...>) {
    to = __builtin_shufflevector(*reinterpret_cast<const Half*>(a), *reinterpret_cast<const Half*>(b), x...);
  }
  /// Lane x of a vector that has the lower halves of all keys.
  static constexpr int lower(int x) { return x / (lanes / 2) * lanes + x % (lanes / 2); }
  template <int... x>
  static void add_halves(V& a, const V& b, std::integer_sequence<int, x...>) {
    a = __builtin_shufflevector(a, b, lower(x)...) + __builtin_shufflevector(a, b, (lower(x) + lanes / 2)...);
  }
  template <int distance, int... x>
  static void add_neighbours(V& a, std::integer_sequence<int, x...>) {
    a += __builtin_shufflevector(a, a, (x ^ distance)...);
  }
  template <int distance>
  static void for_distances(V& a) {
    if constexpr (distance > 0) {
      add_neighbours<distance>(a, std::make_integer_sequence<int, keys * lanes>());
      for_distances<distance / 2>(a);
    }
  }
};

template <int bytes, int rows, class Real>
void multiply_rows(const KeyProduct<Real>& product) {
  using Lanes = KeyLanes<Real, bytes>;
  using V = typename Lanes::V;
  constexpr int lanes = Lanes::lanes, keys = Lanes::keys;
  const int64_t d = product.d, whole = d / lanes * lanes;
  for (int64_t x = 0; x < product.count; x += 2 * keys) {
    // Two vectors share a read of the queries. Keys after the last are the last again: nobody reads them.
    const Real* key[2][keys];
    for (int v = 0; v < 2; ++v)
      for (int t = 0; t < keys; ++t) {
        const int64_t wanted = x + v * keys + t;
        key[v][t] = product.keys + (wanted < product.count ? wanted : product.count - 1) * d;
      }
    alignas(bytes) V sum[rows][2] = {};
    const auto add = [&](const Real* q, int64_t q_stride, const Real* const(&k0)[keys],
                         const Real* const(&k1)[keys], int64_t c) {
      alignas(bytes) V k[2];
      Lanes::load(k0, c, k[0]);
      Lanes::load(k1, c, k[1]);
#pragma GCC unroll 4
      for (int h = 0; h < rows; ++h) {
        alignas(bytes) V own;
        Lanes::repeat(q + h * q_stride + c, own);
        sum[h][0] += own * k[0];
        sum[h][1] += own * k[1];
      }
    };
    for (int64_t c = 0; c < whole; c += lanes) add(product.q, d, key[0], key[1], c);
    if (whole < d) {  // the rest, filled up with zeros
      Real q[rows][lanes] = {}, k[2][keys][lanes] = {};
      const Real* rest[2][keys];
      for (int64_t c = whole; c < d; ++c) {
        for (int h = 0; h < rows; ++h) q[h][c - whole] = product.q[h * d + c];
        for (int v = 0; v < 2; ++v)
          for (int t = 0; t < keys; ++t) k[v][t][c - whole] = key[v][t][c];
      }
      for (int v = 0; v < 2; ++v)
        for (int t = 0; t < keys; ++t) rest[v][t] = k[v][t];
      add(q[0], lanes, rest[0], rest[1], 0);
    }
    const int64_t left = product.count - x;
#pragma GCC unroll 4
    for (int h = 0; h < rows; ++h) {
      Lanes::add_lanes(sum[h][0], sum[h][1]);
      Real* const out = product.out + h * product.stride + x;
#pragma GCC unroll 4
      for (int t = 0; t < 2 * keys; ++t) {
        if (t >= left) break;
        out[t] = sum[h][0][t * lanes / 2];
      }
    }
  }
}

/// Elements [c, c + `wide` vectors) of the sums.
template <int bytes, int wide, int rows, class Real>
void multiply_elements(const ValueProduct<Real>& product, int64_t c) {
  using V = typename Vector<Real, bytes>::type;
  constexpr int lanes = bytes / static_cast<int>(sizeof(Real));
  V sum[rows][wide] = {};
  const Real* weight = product.weights;
  for (const TokenPiece* piece = product.pieces; piece != product.pieces + product.n_pieces; ++piece) {
    const Real* v = product.values + piece->first * product.d + c;
    for (int64_t x = 0; x < piece->count; ++x, v += product.d, ++weight)
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) {
        const V value = *reinterpret_cast<const V*>(v + w * lanes);
#pragma GCC unroll 4
        for (int h = 0; h < rows; ++h) sum[h][w] += weight[h * product.stride] * value;
      }
  }
#pragma GCC unroll 4
  for (int h = 0; h < rows; ++h)
#pragma GCC unroll 4
    for (int w = 0; w < wide; ++w)
      *reinterpret_cast<V*>(product.out + h * product.d + c + w * lanes) = sum[h][w];
}

template <int bytes, int rows, class Real>
void multiply_rows(const ValueProduct<Real>& product) {
  constexpr int wide = bytes / 16;  // vectors that share a read of the weights
  constexpr int64_t widest = wide * bytes / static_cast<int64_t>(sizeof(Real));
  int64_t c = 0;
  for (; c + widest <= product.d; c += widest) multiply_elements<bytes, wide, rows>(product, c);
  constexpr int lanes = KeyLanes<Real, 32>::lanes;
  for (; c + lanes <= product.d; c += lanes) multiply_elements<32, 1, rows>(product, c);
  for (; c < product.d; ++c) multiply_elements<sizeof(Real), 1, rows>(product, c);
}

template <int bytes, class Product>
void multiply_pages_with(const Product& product) {
  switch (product.rows) {
    case 1:
      return multiply_rows<bytes, 1>(product);
    case 2:
      return multiply_rows<bytes, 2>(product);
    case 3:
      return multiply_rows<bytes, 3>(product);
    default:
      return multiply_rows<bytes, 4>(product);
  }
}

}  // namespace
}  // namespace hindsight::cpu
