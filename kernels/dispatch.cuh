#pragma once
// From values known at launch to template arguments, once per launcher.

#include <type_traits>

#include "kernels/element.cuh"
#include "kernels/kernels.h"

namespace hindsight::kernels {

template <class T>
struct TypeTag {
  using type = T;
};

/// Calls f(TypeTag<T>).
template <class F>
cudaError_t dispatch_type(ElementType type, F&& f) {
  switch (type) {
    case ElementType::float16:
      return f(TypeTag<__half>{});
    case ElementType::bfloat16:
      return f(TypeTag<__nv_bfloat16>{});
    case ElementType::float32:
      return f(TypeTag<float>{});
  }
  return cudaErrorInvalidValue;
}

/// Calls f(TypeTag<T>, integral_constant<head_dim>).
template <class F>
cudaError_t dispatch(const Heads& heads, F&& f) {
  return dispatch_type(heads.type, [&](auto type) {
    switch (heads.head_dim) {
      case 64:
        return f(type, std::integral_constant<int, 64>{});
      case 80:
        return f(type, std::integral_constant<int, 80>{});
      case 96:
        return f(type, std::integral_constant<int, 96>{});
      case 128:
        return f(type, std::integral_constant<int, 128>{});
      case 256:
        return f(type, std::integral_constant<int, 256>{});
      default:
        return cudaErrorInvalidValue;
    }
  });
}

/// In 32 bits where both numbers have no more: a GPU divides 64 bits in a hundred instructions.
template <class A, class B>
__host__ __device__ constexpr int ceil_div(A a, B b) {
  return static_cast<int>((a + b - 1) / b);
}

}  // namespace hindsight::kernels
