#pragma once
// Errors of outputs against a reference.

#include "backend/cpu/cpu_state.h"

namespace hindsight::cpu {

/// Backend::compare. Sums in double, whatever Real is.
template <class Real>
void compare(View<Real, 3> out, View<Real, 2> lse, int64_t first_row, View<Real, 3> reference_out,
             View<Real, 2> reference_lse, View<Real, 3> errors) {
  const int64_t n = reference_out.shape[0], heads = reference_out.shape[1], d = reference_out.shape[2];
#pragma omp parallel for schedule(static) if (worth_threads(n * heads * d))
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t head = 0; head < heads; ++head) {
      double difference = 0, reference = 0, own = 0, dot = 0;
      for (int64_t c = 0; c < d; ++c) {
        const double a = out(first_row + i, head, c), b = reference_out(i, head, c);
        difference += (a - b) * (a - b);
        reference += b * b;
        own += a * a;
        dot += a * b;
      }
      const double undefined = std::numeric_limits<double>::quiet_NaN();
      // An output of zero (nothing attended) has no direction: its cosine is 0, as far from the reference as
      // unrelated ones.
      const double norms = std::sqrt(own * reference);
      const double shown = std::exp(static_cast<double>(lse(first_row + i, head)) - reference_lse(i, head));
      errors(FidelityErrors::rel_l2, i, head) =
          static_cast<Real>(reference > 0 ? std::sqrt(difference / reference) : undefined);
      errors(FidelityErrors::cosine, i, head) =
          static_cast<Real>(reference > 0 ? (norms > 0 ? dot / norms : 0) : undefined);
      errors(FidelityErrors::mass_recall, i, head) = static_cast<Real>(std::min(1.0, shown));
    }
  }
}

/// Backend::compare_rows of one row of n elements.
template <class Real>
double relative_l2(const Real* x, const Real* reference, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t c = 0; c < n; ++c) {
    const double r = reference[c], d = x[c] - r;
    difference += d * d;
    norm += r * r;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace hindsight::cpu
