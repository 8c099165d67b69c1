#include "config/sweep_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/nearest_name.h"
#include "config/plan_reader.h"

namespace hindsight {
namespace {

const std::vector<std::string> top_level_keys{"version", "traces", "layers", "steps",    "device", "measure",
                                              "repeats", "batch",  "output", "defaults", "methods"};

class PlanLoader {
 public:
  PlanLoader(const std::filesystem::path& file, const MethodCatalog& catalog, const PlanOverrides& overrides)
      : reader_(file, catalog, overrides), problems_(reader_.problems()) {
    plan_.file = file;
  }

  SweepPlan load() {
    reader_.top().refuse_unknown(top_level_keys);
    reader_.take_version();
    take_layers();
    take_steps();
    plan_.device = reader_.take_device();
    take_measure();
    if (const auto repeats = reader_.take_integer("repeats", 1, 1000000)) plan_.repeats = *repeats;
    if (const auto batch = reader_.take_integer("batch", 1, 65536)) plan_.batch = *batch;
    plan_.output = reader_.take_output();
    plan_.points = reader_.take_methods(Loop::open);
    traces_ = reader_.take_files("traces", "a list of trace files");
    reader_.finish();
    plan_.traces = reader_.expand("traces", traces_);
    plan_.resolved_yaml = resolved_yaml();
    return std::move(plan_);
  }

 private:
  void take_layers() {
    const YamlItem item = reader_.get("layers");
    if (!item.given() || (item.node.IsScalar() && item.node.Scalar() == "all")) return;
    if (!item.node.IsSequence())
      return problems_.add(item.place, "layers: is no list; all, or a list such as [2, 5] would be right");
    std::vector<int64_t> layers;
    for (const YamlItem& entry : as_list(item, "layers", problems_)) {
      const auto layer = reader_.in_range(entry, "layers", 0);
      if (!layer) continue;
      if (std::find(layers.begin(), layers.end(), *layer) != layers.end())
        problems_.add(entry.place, fmt::format("layers: {} stands twice; once would be right", *layer));
      layers.push_back(*layer);
    }
    plan_.layers = layers;
  }

  void take_steps() {
    const MapReader steps = reader_.section("steps");
    steps.refuse_unknown({"from", "count"});
    if (const auto from = reader_.in_range(reader_.get("steps.from", steps, "from"), "steps.from", 0))
      plan_.steps.from = *from;
    const YamlItem count = reader_.get("steps.count", steps, "count");
    if (count.given() && !(count.node.IsScalar() && count.node.Scalar() == "all"))
      plan_.steps.count = reader_.in_range(count, "steps.count", 1);
  }

  void take_measure() {
    const YamlItem item = reader_.get("measure");
    if (!item.given()) return;
    const std::vector<YamlItem> entries = as_list(item, "measure", problems_);
    plan_.measure_fidelity = plan_.measure_latency = false;
    for (const YamlItem& entry : entries) {
      const auto what = as_string(entry, "measure", problems_);
      if (!what) continue;
      bool* chosen = *what == "fidelity"  ? &plan_.measure_fidelity
                     : *what == "latency" ? &plan_.measure_latency
                                          : nullptr;
      if (!chosen)
        problems_.add(entry.place, fmt::format("measure: '{}' is not known; did you mean {}?", *what,
                                               nearest_name(*what, {"fidelity", "latency"})));
      else if (*chosen)
        problems_.add(entry.place, fmt::format("measure: {} stands twice; once would be right", *what));
      else
        *chosen = true;
    }
  }

  /// The configuration with everything said: in the folder of the file it can be run as it is.
  std::string resolved_yaml() const {
    YAML::Emitter out;
    out << YAML::BeginMap << YAML::Key << "version" << YAML::Value << 1;
    out << YAML::Key << "traces" << YAML::Value << YAML::BeginSeq;
    for (const auto& [pattern, place] : traces_) out << pattern;
    out << YAML::EndSeq << YAML::Key << "layers" << YAML::Value;
    if (plan_.layers)
      out << YAML::Flow << *plan_.layers;
    else
      out << "all";
    out << YAML::Key << "steps" << YAML::Value << YAML::Flow << YAML::BeginMap << YAML::Key << "from"
        << YAML::Value << plan_.steps.from << YAML::Key << "count" << YAML::Value;
    if (plan_.steps.count)
      out << *plan_.steps.count;
    else
      out << "all";
    out << YAML::EndMap << YAML::Key << "device" << YAML::Value << plan_.device;
    out << YAML::Key << "measure" << YAML::Value << YAML::Flow << YAML::BeginSeq;
    if (plan_.measure_fidelity) out << "fidelity";
    if (plan_.measure_latency) out << "latency";
    out << YAML::EndSeq << YAML::Key << "repeats" << YAML::Value << plan_.repeats;
    out << YAML::Key << "batch" << YAML::Value << plan_.batch;
    out << YAML::Key << "output" << YAML::Value << reader_.relative(plan_.output);
    emit_methods(out, plan_.points);
    out << YAML::EndMap;
    return std::string(out.c_str()) + "\n";
  }

  PlanReader reader_;
  Problems& problems_;
  std::vector<FilePattern> traces_;
  SweepPlan plan_;
};

}  // namespace

SweepPlan load_plan(const std::filesystem::path& file, const MethodCatalog& catalog,
                    const PlanOverrides& overrides) {
  return PlanLoader(file, catalog, overrides).load();
}

}  // namespace hindsight
