#include "replay/residency.h"

#include <fmt/format.h>

#include <algorithm>

namespace hindsight {

void BoundedCache::insert(const std::string& key, std::shared_ptr<const void> value, int64_t bytes) {
  while (!order_.empty() && used_ + bytes > limit_) {
    const auto last = entries_.find(order_.back());
    used_ -= last->second.bytes;
    entries_.erase(last);
    order_.pop_back();
  }
  order_.push_front(key);
  entries_[key] = {std::move(value), bytes, order_.begin()};
  used_ += bytes;
}

int64_t steps_per_block(int64_t bytes_per_step, int64_t most) {
  constexpr int64_t block_bytes = 128 << 20;
  const int64_t steps = std::clamp<int64_t>(block_bytes / std::max<int64_t>(1, bytes_per_step), 1, most);
  return steps < tile_steps ? steps : steps - steps % tile_steps;
}

namespace {

/// Steps that one call takes of what looks at all keys. Backends cut it into tiles of their own, and fill a
/// GPU the better the more there are.
constexpr int64_t dense_steps = 4096;

/// Any page size gives the same dense attention; the default one is what most points use too.
constexpr int64_t reference_page_size = 16;

std::string layer_key(int64_t layer) { return fmt::format("layer {}", layer); }
std::string reference_key(int64_t layer) { return fmt::format("reference {}", layer); }

}  // namespace

Residency::Residency(Backend& backend, const ReplayTrace& trace, int64_t limit_bytes)
    : Residency(backend, trace, limit_bytes, [this](int64_t layer) {
        if (ahead_.loaded.valid() && ahead_.layer == layer) return ahead_.loaded.get();
        if (ahead_.loaded.valid()) ahead_.loaded.wait();  // one reads at a time
        return load(layer);
      }) {
  reader_ = std::make_unique<TraceReader>(trace.file);
}

Residency::Residency(Backend& backend, const ReplayTrace& trace, int64_t limit_bytes, LayerSource source)
    : backend_(backend), trace_(trace), source_(std::move(source)), kept_(limit_bytes) {}

Block Residency::block(int64_t first_step, int64_t n, int64_t window) {
  Block& all = blocks_[window];
  if (all.steps.empty()) {
    std::vector<BlockStep> steps;
    for (int64_t step = 0; step < trace_.n_steps; ++step)
      steps.push_back({0, static_cast<int32_t>(trace_.first_position + step), static_cast<int32_t>(step),
                       static_cast<int32_t>(std::min(window, step + 1))});
    all = backend_.make_block(std::move(steps));
  }
  Block part;
  part.steps.assign(all.steps.begin() + first_step, all.steps.begin() + first_step + n);
  part.on_backend = backend_.rows_of(all.on_backend, first_step, n);
  return part;
}

void Residency::read_ahead(int64_t layer) {
  if (!reader_ || kept_.has(layer_key(layer)) || ahead_.loaded.valid()) return;
  ahead_.layer = layer;
  ahead_.loaded = std::async(std::launch::async, [this, layer] { return load(layer); });
}

std::shared_ptr<const Layer> Residency::load(int64_t layer) {
  const LayerTensors tensors = reader_->read_layer(layer);
  return backend_.load_layer({&tensors, 1});
}

std::shared_ptr<const Layer> Residency::layer(int64_t layer) {
  return kept_.get<Layer>(
      layer_key(layer), [&] { return source_(layer); }, [](const Layer& value) { return value.bytes(); });
}

std::shared_ptr<const KvCache> Residency::cache(int64_t layer, int64_t page_size) {
  return kept_.get<KvCache>(
      fmt::format("cache {} {}", layer, page_size),
      [&]() -> std::shared_ptr<const KvCache> {
        const auto source = this->layer(layer);
        std::shared_ptr<KvCache> made = backend_.make_cache(*source, page_size);
        const TokenRange all{0, 0, trace_.last_position() + 1};
        backend_.append(*made, *source, {&all, 1});
        return made;
      },
      [](const KvCache& value) { return value.bytes(); });
}

Reference Residency::make_reference(const Layer& layer) {
  return {backend_.make_tensor<float, 3>({trace_.n_steps, layer.n_q_heads, layer.head_dim}),
          backend_.make_tensor<float, 2>({trace_.n_steps, layer.n_q_heads})};
}

std::shared_ptr<const Reference> Residency::keep_reference(
    int64_t layer, const std::function<std::shared_ptr<const Reference>()>& make) {
  return kept_.get<Reference>(reference_key(layer), make, [&](const Reference& value) {
    return (value.out.size() + value.lse.size()) * backend_.real_bytes();
  });
}

std::shared_ptr<const Reference> Residency::reference(int64_t layer) {
  return keep_reference(layer, [&] {
    const auto source = this->layer(layer);
    const auto keys = cache(layer, reference_page_size);
    Reference made = make_reference(*source);
    for_dense_blocks([&](const Block& block, int64_t first, int64_t count) {
      backend_.dense(*source, *keys, block, backend_.rows_of(made.out, first, count),
                     backend_.rows_of(made.lse, first, count));
    });
    return std::make_shared<const Reference>(std::move(made));
  });
}

std::shared_ptr<const Tensor<float, 3>> Residency::page_mass(int64_t layer, int64_t page_size, Unit unit) {
  return kept_.get<Tensor<float, 3>>(
      fmt::format("mass {} {} {}", layer, page_size, static_cast<int>(unit)),
      [&]() -> std::shared_ptr<const Tensor<float, 3>> {
        const auto source = this->layer(layer);
        const auto keys = cache(layer, page_size);
        auto mass = backend_.make_tensor<float, 3>({trace_.n_steps, source->units(unit), keys->max_pages});
        // Whether the reference is kept already must not matter: the two ways differ by rounding.
        if (page_size == reference_page_size) {
          Reference made = make_reference(*source);
          for_dense_blocks([&](const Block& block, int64_t first, int64_t count) {
            backend_.dense_with_mass(*source, *keys, block, unit, backend_.rows_of(made.out, first, count),
                                     backend_.rows_of(made.lse, first, count),
                                     backend_.rows_of(mass, first, count));
          });
          keep_reference(layer, [&] { return std::make_shared<const Reference>(std::move(made)); });
        } else {
          const auto dense = reference(layer);
          for_dense_blocks([&](const Block& block, int64_t first, int64_t count) {
            backend_.page_mass(*source, *keys, block, unit, backend_.rows_of(dense->lse, first, count),
                               backend_.rows_of(mass, first, count));
          });
        }
        return std::make_shared<const Tensor<float, 3>>(std::move(mass));
      },
      [&](const Tensor<float, 3>& value) { return value.size() * backend_.real_bytes(); });
}

void Residency::for_dense_blocks(const std::function<void(const Block&, int64_t, int64_t)>& run) {
  for (int64_t first = 0; first < trace_.n_steps; first += dense_steps) {
    const int64_t count = std::min(dense_steps, trace_.n_steps - first);
    run(block(first, count, 1), first, count);
  }
}

}  // namespace hindsight
