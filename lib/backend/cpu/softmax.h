#pragma once
// The algebra of partial attention: a normalised output with the natural-log sum of its exponentials, and how
// two of them merge.

#include "backend/cpu/cpu_state.h"

namespace hindsight::cpu {

/// Below the smallest normal number there is exactly 0, for exp(-inf) too. Eigen's vectors end above 0, at
/// about 3e-39 in float, and a row's tail does not: pages far below the others would rank by their place in
/// the row, and otherwise than on other backends.
template <class Real>
Real normal_or_zero(Real term) {
  return term < std::numeric_limits<Real>::min() ? Real(0) : term;
}

/// Turns `n` values x into exp(x - shift), each with the same shift or with its own.
template <class Real, class Shift>
void exponentials_in_place(Real* values, int64_t n, const Shift& shift) {
  Eigen::Map<Eigen::Array<Real, Eigen::Dynamic, 1>> row(values, n);
  row = (row - shift).exp();
  for (int64_t i = 0; i < n; ++i) values[i] = normal_or_zero(values[i]);
}

/// Turns a row of `n` logits into softmax weights; returns the LSE. Masked tokens carry -inf. All masked:
/// weights 0, LSE -inf.
template <class Real>
Real softmax_in_place(Real* logits, int64_t n) {
  Eigen::Map<Eigen::Array<Real, Eigen::Dynamic, 1>> row(logits, n);
  const Real largest = n > 0 ? row.maxCoeff() : minus_infinity<Real>();
  if (largest == minus_infinity<Real>()) {
    row.setZero();
    return largest;
  }
  exponentials_in_place(logits, n, largest);
  const Real sum = row.sum();
  row /= sum;
  return largest + std::log(sum);
}

/// Merges (from, from_lse) into (into, into_lse), d elements each. The empty partial (lse -inf) is the
/// identity and leaves all bits as they were.
template <class Real>
void merge_partial(Real* into, Real& into_lse, const Real* from, Real from_lse, int64_t d) {
  if (from_lse == minus_infinity<Real>()) return;
  if (into_lse == minus_infinity<Real>()) {
    std::copy_n(from, d, into);
    into_lse = from_lse;
    return;
  }
  const Real m = std::max(into_lse, from_lse);
  const Real a = std::exp(into_lse - m), b = std::exp(from_lse - m);
  for (int64_t c = 0; c < d; ++c) into[c] = (a * into[c] + b * from[c]) / (a + b);
  into_lse = m + std::log(a + b);
}

}  // namespace hindsight::cpu
