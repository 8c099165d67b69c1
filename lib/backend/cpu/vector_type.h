#pragma once
// Vectors of so many bytes, whatever the processor. Everything here belongs to the file that includes it,
// which may be compiled for other processors than the rest of the program.

namespace hindsight::cpu {
namespace {

template <class Real, int bytes>
struct Vector {
  /// Anywhere in memory.
  typedef Real type __attribute__((vector_size(bytes), aligned(sizeof(Real)), may_alias));
};

}  // namespace
}  // namespace hindsight::cpu
