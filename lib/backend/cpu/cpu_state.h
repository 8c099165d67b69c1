#pragma once
// What the CPU backend keeps: layers widened to Real, and caches with the tokens of a head side by side, so
// that pages of a head are contiguous and dense attention needs no gather. Page tables are the identity here;
// the CUDA backend has real ones.

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/memory.h"

namespace hindsight::cpu {

template <class Real>
using Matrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Real>
using Rows = Eigen::Map<const Matrix<Real>>;  ///< rows of d elements in memory
template <class Real>
using MutableRows = Eigen::Map<Matrix<Real>>;

/// Memory of a thread's matrix whose size changes from use to use: it grows and is kept, since fresh memory
/// of this size comes in pages that fault. Aligned as Eigen's own, so that sums have the same bits
/// everywhere.
template <class Real>
class ReusedMatrix {
 public:
  Real* data() { return memory_.data(); }
  /// Row-major, uninitialised; valid until the next call.
  MutableRows<Real> sized(int64_t rows, int64_t cols) {
    if (memory_.size() < rows * cols) memory_.resize(rows * cols);
    return MutableRows<Real>(memory_.data(), rows, cols);
  }

 private:
  Eigen::Matrix<Real, Eigen::Dynamic, 1> memory_;
};

/// Whether so many multiply-adds pay for waking threads. One-step blocks mostly do not: on a busy machine,
/// waiting for a thread that has no core takes longer than the work.
inline bool worth_threads(int64_t multiply_adds) { return multiply_adds > 1 << 20; }

template <class Real>
constexpr Real minus_infinity() {
  return -std::numeric_limits<Real>::infinity();
}

/// Keys or values of a sequence by head: [Hkv][T][d]. Uninitialised: large memory is touched first by the
/// threads that fill it.
template <class Real>
class HeadMajor {
 public:
  HeadMajor() = default;
  HeadMajor(int64_t heads, int64_t tokens, int64_t d)
      : n_tokens_(tokens),
        head_dim_(d),
        size_(heads * tokens * d),
        values_(static_cast<Real*>(allocate_memory(static_cast<size_t>(size_) * sizeof(Real)).release())) {}
  Real* at(int64_t head, int64_t token) { return values_.get() + (head * n_tokens_ + token) * head_dim_; }
  const Real* at(int64_t head, int64_t token) const {
    return values_.get() + (head * n_tokens_ + token) * head_dim_;
  }
  int64_t size() const { return size_; }

 private:
  int64_t n_tokens_ = 0, head_dim_ = 0, size_ = 0;
  Memory<Real> values_;
};

template <class Real>
struct CpuLayer final : Layer {
  struct Sequence {
    HeadMajor<Real> k, v;
    std::vector<Real> q;  ///< [T - q_start, Hq, d]
  };
  std::vector<Sequence> sequences;

  int64_t bytes() const override {
    int64_t elements = 0;
    for (const Sequence& s : sequences)
      elements += s.k.size() + s.v.size() + static_cast<int64_t>(s.q.size());
    return elements * static_cast<int64_t>(sizeof(Real));
  }
  /// Query of a head at a position: d elements; the G heads of a KV head follow one another.
  const Real* query(int64_t sequence, int64_t position, int64_t q_head) const {
    const Sequence& s = sequences[sequence];
    return s.q.data() + ((position - q_start[sequence]) * n_q_heads + q_head) * head_dim;
  }
};

template <class Real>
struct CpuCache final : KvCache {
  struct Sequence {
    HeadMajor<Real> k, v;
    HeadMajor<Real> summaries;  ///< per page one row of 2d elements: maximum, then minimum of the keys
  };
  std::vector<Sequence> sequences;

  int64_t summary_bytes() const override {
    int64_t elements = 0;
    for (const Sequence& s : sequences) elements += s.summaries.size();
    return elements * static_cast<int64_t>(sizeof(Real));
  }
  int64_t bytes() const override {
    int64_t elements = 0;
    for (const Sequence& s : sequences) elements += s.k.size() + s.v.size() + s.summaries.size();
    return elements * static_cast<int64_t>(sizeof(Real));
  }
};

/// Takes one more key of d elements into a summary.
template <class Real>
void widen(const Real* key, int64_t d, Real* summary) {
  for (int64_t c = 0; c < d; ++c) {
    summary[c] = std::max(summary[c], key[c]);
    summary[d + c] = std::min(summary[d + c], key[c]);
  }
}

/// Element-wise maximum (first d) and minimum (last d) of `count` >= 1 rows of d keys.
template <class Real>
void summarise(const Real* keys, int64_t count, int64_t d, Real* summary) {
  std::copy_n(keys, d, summary);
  std::copy_n(keys, d, summary + d);
  for (int64_t token = 1; token < count; ++token) widen(keys + token * d, d, summary);
}

/// A tensor's elements as what they are on this backend (Tensor<float> holds double in the oracle).
template <class Real, int Rank>
View<Real, Rank> reals(const Tensor<float, Rank>& tensor) {
  return View<Real, Rank>(reinterpret_cast<Real*>(tensor.data()), tensor.shape);
}

template <class Real>
const CpuLayer<Real>& as_cpu(const Layer& layer) {
  return static_cast<const CpuLayer<Real>&>(layer);
}
template <class Real>
const CpuCache<Real>& as_cpu(const KvCache& cache) {
  return static_cast<const CpuCache<Real>&>(cache);
}

}  // namespace hindsight::cpu
