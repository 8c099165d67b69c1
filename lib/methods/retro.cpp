// Retrospective refinement (RetroAttention, arXiv 2508.09001, section 3): past queries of the window are
// shown the pages that later steps load anyway. The replay does it with the primitives note_loads, attend and
// merge; here is what a user may set.

#include "methods/retro.h"

#include "methods/common_parameters.h"

namespace hindsight {
namespace {

/// A choice that only a model that decodes has: in a replay nothing that was captured changes.
ParameterDoc closed_loop_choice(std::string path, std::string default_value, std::vector<std::string> choices,
                                std::string summary, std::string source) {
  ParameterDoc doc = choice_parameter(std::move(path), std::move(default_value), std::move(choices),
                                      std::move(summary), std::move(source));
  doc.closed_loop_only = true;
  return doc;
}

}  // namespace

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
  doc.parameters = {
      window,
      closed_loop_choice(
          "retro.query", "recomputed", {"recomputed", "original"},
          "query that a past position attends with: of its revised input, or as first computed",
          "RetroAttention, section 3 (recomputed); our choice (original)"),
      closed_loop_choice(
          "retro.refresh", "merge", {"merge", "recompute"},
          "a past output is merged with what is newly shown, or computed again over all it was "
          "shown",
          "RetroAttention, section 3 (merge); our choice (recompute)"),
      closed_loop_choice("retro.summaries", "recompute", {"recompute", "widen"},
                         "summaries of pages whose keys are overwritten: made again, or widened",
                         "our choice")};
  return doc;
}

RetroOptions retro_options(const ParameterSet& parameters) {
  RetroOptions options;
  if (!parameters.has("retro.window")) return options;
  options.window = parameters.integer("retro.window");
  const auto is = [&](const char* path, const char* choice) {
    return parameters.has(path) && parameters.choice(path) == choice;
  };
  options.original_query = is("retro.query", "original");
  options.attend_again = is("retro.refresh", "recompute");
  options.summaries = is("retro.summaries", "widen") ? Summaries::widen : Summaries::recompute;
  return options;
}

}  // namespace hindsight
