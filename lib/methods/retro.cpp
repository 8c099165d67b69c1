// Retrospective refinement (RetroAttention, arXiv 2508.09001, section 3): past queries of the window are
// shown the pages that later steps load anyway. The replay does it with the primitives note_loads, attend and
// merge; here is what a user may set.

#include "methods/common_parameters.h"

namespace hindsight {

MethodDoc retro_refinement() {
  MethodDoc doc;
  doc.name = "retro";
  doc.summary = "revises the outputs of the last queries with pages that later steps load";
  doc.source = "RetroAttention, section 3";
  ParameterDoc window =
      integer_parameter("retro.window", 1, 1, 64, "steps",
                        "steps in which a query is shown pages, its own included; 1 is the selector alone",
                        "RetroAttention, section 3 (w; its figures use n = w - 1)");
  window.default_value.reset();
  doc.parameters = {window};
  return doc;
}

}  // namespace hindsight
