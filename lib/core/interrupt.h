#pragma once
// A polite stop: SIGINT and SIGTERM set a flag, long work looks at it between pieces and ends with what is
// finished kept.

namespace hindsight {

/// From here on the first SIGINT or SIGTERM sets the flag; a second one ends the program at once.
void install_interrupt_handlers();
/// Throws Interrupted if the flag is set.
void throw_if_interrupted();

}  // namespace hindsight
