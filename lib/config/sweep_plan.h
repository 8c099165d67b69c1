#pragma once
// A sweep as the user wrote it, checked and resolved, and its expansion into points. Pure but for reading the
// file.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/parameters.h"

namespace hindsight {

/// One combination of parameters of one method of the configuration.
struct MethodPoint {
  std::string name;         ///< the method's name in the configuration
  std::string selector;     ///< name in the catalog
  ParameterSet parameters;  ///< complete, defaults filled in
  bool operator==(const MethodPoint&) const = default;
};

struct StepRange {
  int64_t from = 0;              ///< counted from the end of the prompt
  std::optional<int64_t> count;  ///< none: all
};

/// A trace file that the configuration names, or a glob of it matches.
struct TraceFile {
  std::filesystem::path file;
  std::string name;   ///< as the configuration names it: relative to its folder, or absolute
  std::string place;  ///< where it does: "file:line:column", or "--set traces=..."
};

/// The whole configuration, resolved.
struct SweepPlan {
  std::filesystem::path file;                  ///< the configuration
  std::vector<TraceFile> traces;               ///< globs expanded, sorted within a glob, no duplicates
  std::optional<std::vector<int64_t>> layers;  ///< none: all
  StepRange steps;
  std::string device = "auto";  ///< auto | cpu | cuda | cuda:N
  bool measure_fidelity = true, measure_latency = false;
  int64_t repeats = 20;
  int64_t batch = 1;
  std::filesystem::path output;
  std::vector<MethodPoint> points;  ///< grids and zips expanded, in the order written
  std::string
      resolved_yaml;  ///< the configuration with defaults and overrides applied, as stored with results
};

/// Settings of the command line that stand above the file.
struct PlanOverrides {
  std::vector<std::string> set;                 ///< "path=value"
  std::optional<std::filesystem::path> output;  ///< relative to the working directory
  std::optional<std::string> device;
};

/// Reads, checks and expands. All errors are found before anything runs. Throws ConfigErrors (all problems,
/// one line each: file:line:column: what is wrong; what would be right) and TraceError for a glob without a
/// match.
SweepPlan load_plan(const std::filesystem::path& file, const MethodCatalog& catalog,
                    const PlanOverrides& overrides = {});

/// Identity of a point: 16 hex digits of the SHA-256 over method, parameters, steps, layers and trace digest;
/// not of output, repeats, device or the names of files.
std::string point_id(const MethodPoint& point, const StepRange& steps, const std::vector<int64_t>& layers,
                     const std::string& trace_digest);

}  // namespace hindsight
