#include "core/interrupt.h"

#include <csignal>

#include "core/error.h"

namespace hindsight {
namespace {

volatile std::sig_atomic_t interrupted = 0;

extern "C" void on_signal(int signal) {
  interrupted = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void install_interrupt_handlers() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

void throw_if_interrupted() {
  if (interrupted) throw Interrupted("interrupted; finished points are kept, go on with --resume");
}

}  // namespace hindsight
