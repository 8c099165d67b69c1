#pragma once
// How points were measured, as attributes of their groups; a result file holds points of one protocol.

#include <string>

#include "hdf5/hdf5.h"
#include "results/result.h"

namespace hindsight {

/// Whether points measured by the one and by the other may stand in one file. Which of several equal GPUs it
/// was makes no difference; the number of threads, which follows the name of a CPU, none to fidelity.
bool agree(Protocol a, Protocol b);

/// "fidelity, latency (repeats 20, batch 1) on CPU, 2 threads".
std::string described(const Protocol& protocol);

/// Attributes measurements, device and, where they say something, average_steps, repeats and batch.
void write_protocol(const h5::Id& point, const Protocol& protocol);
Protocol read_protocol(const h5::Id& point);

}  // namespace hindsight
