#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace hindsight::cpu {

Memory<void> allocate_memory(size_t bytes) {
  constexpr size_t line = 64, huge_page = size_t{2} << 20, large = 2 * huge_page;
  const size_t alignment = bytes < large ? line : huge_page;
  void* allocated = nullptr;
  if (posix_memalign(&allocated, alignment, std::max(line, bytes)) != 0) throw std::bad_alloc();
  Memory<void> memory(allocated);
#ifdef MADV_HUGEPAGE
  // Whole pages of it alone: more would be taken than was asked for. Advice: it may be refused.
  if (alignment == huge_page) madvise(memory.get(), bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace hindsight::cpu
