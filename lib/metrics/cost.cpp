// Bytes that a step must move and operations that it must do, counted from shapes: what an implementation
// without waste would need.

#include <algorithm>

#include "metrics/metric.h"

namespace hindsight {
namespace {

class Cost final : public Metric {
 public:
  explicit Cost(const ReplayShape& shape)
      : shape_(shape),
        kv_(per_layer("bytes_kv", "bytes",
                      "keys and values of the loaded tokens; a page counts once per KV head")),
        metadata_(per_layer("bytes_metadata", "bytes", "page summaries that scoring reads, of all pages")),
        output_cache_(per_layer("bytes_output_cache", "bytes",
                                "past queries read, their float32 outputs and LSE read and written")),
        flops_(per_layer("flops", "operations",
                         "scoring of pages, and attention of all rows of the window over the loaded tokens")),
        intensity_(per_layer("arithmetic_intensity", "operations per byte",
                             "flops / (bytes_kv + bytes_metadata + bytes_output_cache)")) {}

  void on_selection(const SelectionEvent& event) override {
    for (int64_t step = 0; step < shape_.n_steps; ++step) count_step(event, step);
  }

  void finish(Measurements& measurements) override {
    measurements.summary.insert(measurements.summary.end(),
                                {{"bytes_kv_per_step", mean(kv_.values())},
                                 {"bytes_metadata_per_step", mean(metadata_.values())},
                                 {"bytes_output_cache_per_step", mean(output_cache_.values())},
                                 {"flops_per_step", mean(flops_.values())},
                                 {"arithmetic_intensity_mean", mean(intensity_.values())}});
    for (StepLayerSeries* series : {&kv_, &metadata_, &output_cache_, &flops_, &intensity_})
      measurements.series.push_back(series->take());
  }

 private:
  StepLayerSeries per_layer(const char* name, const char* unit, const char* description) const {
    return StepLayerSeries(shape_, name, "", 1, unit, description);
  }

  void count_step(const SelectionEvent& event, int64_t step) {
    const int64_t position = shape_.first_position + step, d = shape_.head_dim;
    const int64_t element = shape_.element_bytes[event.layer];
    const int64_t heads_per_unit = shape_.n_q_heads / shape_.n_units;

    int64_t loaded_tokens = 0;  // of all KV heads, a page once per KV head
    int64_t unit_tokens = 0;    // of all units, each with its own list
    for (int64_t unit = 0; unit < shape_.n_units; ++unit) {
      loaded_tokens += event.at(step, unit, SelectionColumns::own_tokens);
      unit_tokens += event.at(step, unit, SelectionColumns::shown);
    }

    const int64_t existing_pages = position / shape_.page_size + 1;
    const int64_t past_rows = std::min(shape_.window - 1, step);
    const auto kv = static_cast<double>(loaded_tokens * 2 * d * element);
    const int64_t metadata_elements = existing_pages * shape_.n_kv_heads * shape_.metadata_elements_per_page;
    const auto metadata = static_cast<double>(metadata_elements * element);
    const int64_t float_bytes = sizeof(float);
    const auto output_cache =
        static_cast<double>(past_rows * shape_.n_q_heads * (d * element + 2 * (d + 1) * float_bytes));
    // Two operations per multiply-add: q.k and weight*v; a summary row is read by each of the group's heads.
    // All rows of the window meet all loaded tokens, masked or not: they share a tile, which is what makes
    // revising nearly free.
    const int64_t attention = 4 * d * heads_per_unit * (1 + past_rows) * unit_tokens;
    const auto flops = static_cast<double>(attention + 2 * metadata_elements * shape_.group());
    kv_.at(step, event.layer, 0) = kv;
    metadata_.at(step, event.layer, 0) = metadata;
    output_cache_.at(step, event.layer, 0) = output_cache;
    flops_.at(step, event.layer, 0) = flops;
    const double bytes = kv + metadata + output_cache;
    intensity_.at(step, event.layer, 0) = bytes > 0 ? flops / bytes : 0;
  }

  ReplayShape shape_;
  StepLayerSeries kv_, metadata_, output_cache_, flops_, intensity_;
};

}  // namespace

std::unique_ptr<Metric> make_cost(const ReplayShape& shape) { return std::make_unique<Cost>(shape); }

}  // namespace hindsight
