#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace hindsight::cpu {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Memory = std::unique_ptr<T, FreeMemory>;

/// Uninitialised memory, aligned to a cache line. For much of it the system is asked for huge pages: a page
/// fault for every 4 KB takes longer than writing them. Throws std::bad_alloc.
Memory<void> allocate_memory(size_t bytes);

}  // namespace hindsight::cpu
