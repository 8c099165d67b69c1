#include "methods/catalog.h"

#include <stdexcept>

#include "methods/retro.h"

namespace hindsight {

// Each method's file defines the function that describes it. A list of names, and no self-registering
// objects: those vanish from static libraries.
#define HINDSIGHT_SELECTOR(name) SelectorInfo name##_selector();
#define HINDSIGHT_REFINEMENT(name) MethodDoc name##_refinement();
#include "methods/methods.def"
#undef HINDSIGHT_SELECTOR
#undef HINDSIGHT_REFINEMENT

namespace {

const std::vector<SelectorInfo>& selectors() {
  static const std::vector<SelectorInfo> all{
#define HINDSIGHT_SELECTOR(name) name##_selector(),
#define HINDSIGHT_REFINEMENT(name)
#include "methods/methods.def"
#undef HINDSIGHT_SELECTOR
#undef HINDSIGHT_REFINEMENT
  };
  return all;
}

}  // namespace

const MethodCatalog& method_catalog() {
  static const MethodCatalog catalog = [] {
    MethodCatalog all;
    for (const SelectorInfo& info : selectors()) all.selectors.push_back(info.doc);
#define HINDSIGHT_SELECTOR(name)
#define HINDSIGHT_REFINEMENT(name) all.refinements.push_back(name##_refinement());
#include "methods/methods.def"
#undef HINDSIGHT_SELECTOR
#undef HINDSIGHT_REFINEMENT
    return all;
  }();
  return catalog;
}

std::unique_ptr<Selector> make_selector(std::string_view name, const ParameterSet& parameters) {
  for (const SelectorInfo& info : selectors())
    if (info.doc.name == name) return info.make(parameters);
  throw std::out_of_range("no selector is named '" + std::string(name) + "'");
}

int64_t retro_window(const ParameterSet& parameters) { return retro_options(parameters).window; }

}  // namespace hindsight
