#pragma once
// Writes a trace file, rows at a time, so that a trace larger than memory can be made. The file appears when
// it is whole.

#include <filesystem>
#include <memory>

#include "trace/trace.h"

namespace hindsight {

struct TraceWriterOptions {
  DType dtype = DType::bfloat16;  ///< of what is stored
  int64_t q_start = 0;            ///< first position with a query; at most prompt_tokens
  int deflate = 1;                ///< 0: stored as it is
};

class TraceWriter {
 public:
  /// `info.layers` are the layers that will be written. Throws TraceError where the description breaks the
  /// format, EnvironmentError where the file cannot be written.
  TraceWriter(const std::filesystem::path& file, const TraceInfo& info, const TraceWriterOptions& options);
  /// Removes what was written unless finish() was called.
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  /// Rows of tokens [first, first + n): k and v are [n, Hkv, d]; rounded to the storage type.
  void write_kv(int64_t layer, int64_t first, int64_t n, const float* k, const float* v);
  /// Rows of positions [first, first + n), first >= q_start: [n, Hq, d].
  void write_q(int64_t layer, int64_t first, int64_t n, const float* q);
  /// [T] token ids.
  void write_tokens(const std::vector<int32_t>& tokens);
  /// Closes the file and gives it its name.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Checks what a description says of itself: sizes, ranges, divisibility, that nothing overflows. Returns all
/// problems, each "attribute <name>: <what is wrong>; <what would be right>".
std::vector<std::string> problems_of(const TraceInfo& info);

}  // namespace hindsight
