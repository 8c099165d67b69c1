#pragma once
// Loops whose pieces may run in threads of their own.

#include <cstdint>
#include <exception>

namespace hindsight {

/// Calls piece(0) .. piece(n - 1), on several threads if `in_parallel`; loops inside a piece then stay on its
/// thread. The first exception ends the loop and is thrown on; pieces that have begun are finished.
template <class Piece>
void for_each_piece(int64_t n, bool in_parallel, Piece&& piece) {
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) if (in_parallel && n > 1)
  for (int64_t i = 0; i < n; ++i) {
    bool failed = false;
#pragma omp critical(hindsight_for_each_piece)
    failed = static_cast<bool>(failure);
    if (failed) continue;
    try {
      piece(i);
    } catch (...) {
#pragma omp critical(hindsight_for_each_piece)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace hindsight
