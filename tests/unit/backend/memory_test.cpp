// Memory of the CPU backend: all of it can be written, and it takes what was asked for.

#include "backend/cpu/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <new>
#include <vector>

namespace hindsight::cpu {
namespace {

// Sanitizers keep memory of their own, and end the program where none is left.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WITH_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WITH_SANITIZER
#endif
#endif

TEST(Memory, IsAlignedToALineAndWritable) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{5'000'000}, size_t{9'000'001}}) {
    const Memory<void> memory = allocate_memory(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0u);
    std::memset(memory.get(), 1, bytes);
  }
}

#ifndef WITH_SANITIZER

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t all = 0, resident = 0;
  statm >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(Memory, LargeMemoryTakesLittleMoreThanItHolds) {
  const int64_t bytes = 4'300'000, before = resident_bytes();
  std::vector<Memory<void>> kept;
  for (int i = 0; i < 20; ++i) {
    kept.push_back(allocate_memory(static_cast<size_t>(bytes)));
    std::memset(kept.back().get(), 1, static_cast<size_t>(bytes));
  }
  EXPECT_LE(resident_bytes() - before, 20 * bytes * 115 / 100) << "--dry-run counts what was asked for";
}

TEST(Memory, ThatDoesNotExistIsRefused) { EXPECT_THROW(allocate_memory(size_t{1} << 60), std::bad_alloc); }

#endif

}  // namespace
}  // namespace hindsight::cpu
