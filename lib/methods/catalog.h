#pragma once
// The list of all methods (methods.def), as documentation and as factories.

#include <memory>

#include "config/parameters.h"
#include "methods/selector.h"

namespace hindsight {

/// All selectors and refinements with their parameters: what configurations are checked against.
const MethodCatalog& method_catalog();

/// The selector named `name` with complete parameters. Throws std::out_of_range for an unknown name.
std::unique_ptr<Selector> make_selector(std::string_view name, const ParameterSet& parameters);

/// The retrospective window w of a point: retro.window, or 1 where it is not refined.
int64_t retro_window(const ParameterSet& parameters);

}  // namespace hindsight
