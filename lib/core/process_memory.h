#pragma once
// What this process takes of the machine.

#include <cstdint>

namespace hindsight {

/// Resident now: the program with its libraries, files that are mapped, and on a device the context that the
/// driver keeps on the host. Throws EnvironmentError where the system does not say.
int64_t resident_bytes();

}  // namespace hindsight
