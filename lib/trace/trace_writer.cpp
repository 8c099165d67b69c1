#include "trace/trace_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "hdf5/hdf5.h"

namespace hindsight {

struct TraceWriter::Impl {
  std::filesystem::path file, temporary;
  TraceInfo info;
  TraceWriterOptions options;
  h5::Id hdf5;
  struct LayerDatasets {
    h5::Id k, v, q;
  };
  std::map<int64_t, LayerDatasets> layers;
  bool finished = false;

  /// How elements lie in memory while they are written; bfloat16 travels as its bits.
  h5::Id element_type() const {
    if (options.dtype == DType::float16) return h5::half_type();
    return h5::Id(H5Tcopy(options.dtype == DType::float32 ? H5T_IEEE_F32LE : H5T_STD_U16LE), "make a type");
  }

  h5::Id create(const h5::Id& group, const std::string& name, int64_t rows, int64_t heads) const {
    h5::Layout layout;
    const int64_t row_bytes = heads * info.head_dim * size_of(options.dtype);
    // Chunks of about 256 kB: large enough to compress and to read fast, small enough to read rows of.
    layout.chunk = {std::clamp<int64_t>((256 << 10) / row_bytes, 1, rows), heads, info.head_dim};
    layout.deflate = options.deflate;
    const h5::Id type = element_type();
    h5::Id dataset = h5::create_dataset(group, name, type, {rows, heads, info.head_dim}, layout);
    if (options.dtype == DType::bfloat16) h5::write_string(dataset, "dtype", "bf16");
    return dataset;
  }

  void write(const h5::Id& dataset, int64_t first, int64_t n, int64_t heads, const float* values) const {
    const auto elements = static_cast<size_t>(n * heads * info.head_dim);
    std::vector<std::byte> stored(elements * static_cast<size_t>(size_of(options.dtype)));
    from_float(options.dtype, {values, elements}, stored);
    const h5::Id type = element_type();
    h5::write_rows(dataset, first, n, type, stored.data());
  }

  /// Runs `action`, naming the file in what HDF5 refuses.
  template <class Action>
  void guarded(Action&& action) const {
    try {
      action();
    } catch (const h5::Error& error) {
      throw EnvironmentError(fmt::format("{}: {}", file.string(), error.what()));
    }
  }
};

TraceWriter::TraceWriter(const std::filesystem::path& file, const TraceInfo& info,
                         const TraceWriterOptions& options)
    : impl_(std::make_unique<Impl>()) {
  std::vector<std::string> problems = problems_of(info);
  if (options.q_start < 0 || options.q_start > info.prompt_tokens)
    problems.push_back(fmt::format("q_start: {} is out of range; 0 to prompt_tokens = {} would be right",
                                   options.q_start, info.prompt_tokens));
  if (info.layers.empty()) problems.push_back("layers: none; at least one would be right");
  for (const int64_t layer : info.layers)
    if (layer < 0 || layer >= info.n_model_layers)
      problems.push_back(
          fmt::format("layers: {} is out of range; 0 to n_model_layers - 1 = {} would be right", layer,
                      info.n_model_layers - 1));
  if (!problems.empty()) throw TraceError(fmt::format("{}: {}", file.string(), problems.front()));

  impl_->file = file;
  impl_->temporary = file.string() + fmt::format(".partial-{}", getpid());
  impl_->info = info;
  impl_->options = options;
  impl_->guarded([&] {
    impl_->hdf5 = h5::create_file(impl_->temporary);
    const h5::Id& root = impl_->hdf5;
    h5::write_string(root, "format", "hindsight-trace");
    h5::write_integer(root, "format_version", 1);
    h5::write_string(root, "model", info.model);
    h5::write_string(root, "source", info.source);
    h5::write_string(root, "rope", info.rope);
    if (!info.capture.empty()) h5::write_string(root, "capture", info.capture);
    h5::write_integer(root, "n_tokens", info.n_tokens);
    h5::write_integer(root, "prompt_tokens", info.prompt_tokens);
    h5::write_integer(root, "n_q_heads", info.n_q_heads);
    h5::write_integer(root, "n_kv_heads", info.n_kv_heads);
    h5::write_integer(root, "head_dim", info.head_dim);
    h5::write_integer(root, "n_model_layers", info.n_model_layers);
    h5::write_real(root, "softmax_scale", info.softmax_scale);
    const h5::Id layers = h5::create_group(root, "layers");
    for (const int64_t layer : info.layers) {
      const h5::Id group = h5::create_group(layers, std::to_string(layer));
      auto& datasets = impl_->layers[layer];
      datasets.k = impl_->create(group, "k", info.n_tokens, info.n_kv_heads);
      datasets.v = impl_->create(group, "v", info.n_tokens, info.n_kv_heads);
      datasets.q = impl_->create(group, "q", info.n_tokens - options.q_start, info.n_q_heads);
      h5::write_integer(datasets.q, "q_start", options.q_start);
    }
  });
}

TraceWriter::~TraceWriter() {
  if (impl_->finished) return;
  impl_->layers.clear();
  impl_->hdf5 = {};
  std::error_code ignored;
  std::filesystem::remove(impl_->temporary, ignored);
}

void TraceWriter::write_kv(int64_t layer, int64_t first, int64_t n, const float* k, const float* v) {
  impl_->guarded([&] {
    impl_->write(impl_->layers.at(layer).k, first, n, impl_->info.n_kv_heads, k);
    impl_->write(impl_->layers.at(layer).v, first, n, impl_->info.n_kv_heads, v);
  });
}

void TraceWriter::write_q(int64_t layer, int64_t first, int64_t n, const float* q) {
  impl_->guarded([&] {
    impl_->write(impl_->layers.at(layer).q, first - impl_->options.q_start, n, impl_->info.n_q_heads, q);
  });
}

void TraceWriter::write_tokens(const std::vector<int32_t>& tokens) {
  impl_->guarded([&] {
    const h5::Id dataset =
        h5::create_dataset(impl_->hdf5, "tokens", H5T_STD_I32LE, {static_cast<int64_t>(tokens.size())});
    h5::write_all(dataset, H5T_NATIVE_INT32, tokens.data());
  });
}

void TraceWriter::finish() {
  impl_->guarded([&] {
    impl_->layers.clear();
    h5::flush(impl_->hdf5);
    impl_->hdf5 = {};
  });
  std::error_code error;
  std::filesystem::rename(impl_->temporary, impl_->file, error);
  if (error)
    throw EnvironmentError(fmt::format("{}: cannot be written: {}", impl_->file.string(), error.message()));
  impl_->finished = true;
}

}  // namespace hindsight
