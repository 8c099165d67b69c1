// hindsight methods: the selectors and refinements there are.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>

#include "commands.h"
#include "config/nearest_name.h"
#include "core/error.h"
#include "methods/catalog.h"
#include "results/table.h"

namespace hindsight::app {
namespace {

std::string range_of(const ParameterDoc& doc) {
  if (doc.type == ParameterType::choice) return fmt::format("{}", fmt::join(doc.choices, " | "));
  return fmt::format("{}{} to {}", doc.minimum_excluded ? "above " : "", doc.minimum, doc.maximum);
}

void print_all() {
  Table table({"name", "kind", "summary", "source"});
  for (const MethodDoc& doc : method_catalog().selectors)
    table.add_row({doc.name, doc.preset_of.empty() ? "selector" : "preset of " + doc.preset_of, doc.summary,
                   doc.source});
  for (const MethodDoc& doc : method_catalog().refinements)
    table.add_row({doc.name, "refinement", doc.summary, doc.source});
  fmt::print("{}\nhindsight methods NAME lists the parameters of one.\n", table.render());
}

void print_one(const MethodDoc& doc) {
  fmt::print("{}: {}\nsource: {}\n", doc.name, doc.summary, doc.source);
  if (!doc.preset_of.empty()) fmt::print("preset of: {}\n", doc.preset_of);
  if (doc.evicts) fmt::print("not refined by retro: {}\n", doc.refusal);
  fmt::print("\n");
  Table table({"parameter", "default", "values", "unit", "meaning", "source"});
  for (const ParameterDoc& parameter : doc.parameters)
    table.add_row({parameter.path, parameter.default_value ? text_of(*parameter.default_value) : "-",
                   range_of(parameter), parameter.unit,
                   parameter.summary + (parameter.closed_loop_only ? " (hindsight eval)" : ""),
                   parameter.source});
  fmt::print("{}", table.render());
}

void print_methods(const std::string& name) {
  if (name.empty()) return print_all();
  std::vector<std::string> known;
  for (const auto* docs : {&method_catalog().selectors, &method_catalog().refinements})
    for (const MethodDoc& doc : *docs) {
      if (doc.name == name) return print_one(doc);
      known.push_back(doc.name);
    }
  throw ConfigError(fmt::format("methods {}: not known; did you mean {}?", name, nearest_name(name, known)));
}

}  // namespace

void add_methods_command(CLI::App& app, CommandLine& line) {
  auto name = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("methods", "the selectors and refinements there are, and their parameters");
  command->add_option("name", *name, "show one with its parameters")->type_name("NAME");
  command->footer("Example: hindsight methods quest");
  command->callback([name, &line] { line.action = [name] { print_methods(*name); }; });
}

}  // namespace hindsight::app
