#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace hindsight::cpu {

Memory<void> allocate_memory(size_t bytes) {
  constexpr size_t line = 64, huge_page = size_t{2} << 20, large = 2 * huge_page;
  const size_t alignment = bytes < large ? line : huge_page;
  const size_t size = std::max(line, (bytes + alignment - 1) / alignment * alignment);
  Memory<void> memory(std::aligned_alloc(alignment, size));
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == huge_page) madvise(memory.get(), size, MADV_HUGEPAGE);  // advice: it may be refused
#endif
  return memory;
}

}  // namespace hindsight::cpu
