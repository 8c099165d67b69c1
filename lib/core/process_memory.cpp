#include "core/process_memory.h"

#include <unistd.h>

#include <fstream>

#include "core/error.h"

namespace hindsight {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");  // in pages
  int64_t total = 0, resident = 0;
  if (!(statm >> total >> resident)) throw EnvironmentError("/proc/self/statm: cannot be read; mount /proc");
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace hindsight
