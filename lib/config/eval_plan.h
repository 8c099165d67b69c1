#pragma once
// An evaluation as the user wrote it: a model that decodes, with every method of a sweep.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/sweep_plan.h"

namespace hindsight {

enum class EvalMode {
  teacher_forced,  ///< the text is given; what the model says of it is compared with dense attention
  generate,        ///< the model writes; what it writes is compared with the expected answer
};
std::string name_of(EvalMode mode);

/// What a device may round on the way through a model (lib/model); the CPU computes in float32.
enum class EvalPrecision { float32, storage };

struct EvalPlan {
  std::filesystem::path file;   ///< the configuration
  std::filesystem::path model;  ///< folder of config.json and *.safetensors
  std::string model_name;       ///< as the configuration names it
  EvalMode mode = EvalMode::teacher_forced;
  std::vector<TraceFile> data;            ///< globs expanded
  std::optional<int64_t> sequences;       ///< most of each file, spread evenly over it; none: all
  std::optional<int64_t> prompt_tokens;   ///< of teacher forcing; none: those of each line's prompt
  std::optional<int64_t> tokens;          ///< of teacher forcing: most of a sequence
  int64_t average_steps = 1;              ///< of teacher forcing: series hold means of so many steps
  std::optional<int64_t> max_new_tokens;  ///< of generation; none: as many as the expected answer has
  double temperature = 0;                 ///< of sampling; 0 is greedy
  int64_t seed = 0;                       ///< of sampling
  int64_t batch = 8;                      ///< sequences decoded together; changes no result on the CPU
  std::string device = "auto";
  bool measure_recall = false;  ///< what of the true mass is loaded; changes nothing that is decoded
  EvalPrecision precision = EvalPrecision::float32;
  std::filesystem::path output;
  std::vector<MethodPoint> points;
  std::string resolved_yaml;
};

/// As load_plan (sweep_plan.h), for `hindsight eval`.
EvalPlan load_eval_plan(const std::filesystem::path& file, const MethodCatalog& catalog,
                        const PlanOverrides& overrides = {});

}  // namespace hindsight
