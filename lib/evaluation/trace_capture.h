#pragma once
// A trace of a model: what its attention works on over a text, dense, as files of lib/trace hold it.

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/dtype.h"
#include "model/checkpoint.h"
#include "model/sampling.h"

namespace hindsight {

struct CaptureOptions {
  int64_t prompt_tokens = 0, tokens = 0;  ///< P and T
  int64_t generate = 0;                   ///< the last of the T tokens, written by the model
  std::vector<int64_t> layers;            ///< to keep; empty: all
  DType dtype = DType::bfloat16;          ///< of what is stored; computed in float
  std::string label;                      ///< name of the model in the trace; empty: the folder's
  Sampling sampling;
};

/// Tokens of a text: bytes, byte 0 in front, where the model's tokens are bytes; or ids, from the first line
/// of a .jsonl ({"tokens": [...]}). Throws InputError.
std::vector<int32_t> read_text(const std::filesystem::path& file, const ModelConfig& config);

/// Writes the trace of the first T - generate tokens of `text` and of what the model writes after them.
/// Throws ConfigError (options contradict each other, the text or the model), EnvironmentError (the file
/// cannot be written). `progress` gets tokens done and in all; what it throws ends the capture.
void capture_trace(const Checkpoint& checkpoint, const std::string& folder_name, Backend& backend,
                   const std::vector<int32_t>& text, const std::filesystem::path& target,
                   const CaptureOptions& options,
                   const std::function<void(double done, double total)>& progress);

}  // namespace hindsight
