#pragma once
// View: a pointer with a shape and strides. It owns nothing and may point into device memory.

#include <array>
#include <cstdint>
#include <type_traits>

namespace hindsight {

template <class T, int Rank>
struct View {
  T* data = nullptr;
  std::array<int64_t, Rank> shape{};
  std::array<int64_t, Rank> stride{};  ///< in elements

  View() = default;
  /// A dense row-major view of `shape` at `pointer`.
  View(T* pointer, const std::array<int64_t, Rank>& dims) : data(pointer), shape(dims) {
    int64_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      stride[axis] = step;
      step *= shape[axis];
    }
  }
  /// Views of mutable elements convert to views of constant ones.
  template <class U>
  requires(std::is_same_v<const U, T>) View(const View<U, Rank>& other)
      : data(other.data), shape(other.shape), stride(other.stride) {}

  int64_t size() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }

  template <class... Index>
  requires(sizeof...(Index) == Rank) T& operator()(Index... index) const { return data[offset(index...)]; }

  template <class... Index>
  requires(sizeof...(Index) == Rank) int64_t offset(Index... index)
  const {
    const std::array<int64_t, Rank> at{static_cast<int64_t>(index)...};
    int64_t sum = 0;
    for (int axis = 0; axis < Rank; ++axis) sum += at[axis] * stride[axis];
    return sum;
  }
};

}  // namespace hindsight
