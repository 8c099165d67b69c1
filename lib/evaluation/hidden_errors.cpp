#include "evaluation/hidden_errors.h"

#include <utility>

namespace hindsight {

HiddenErrors::HiddenErrors(Backend& backend, Decoder& decoder, int64_t first_layer, Reference reference)
    : backend_(backend),
      first_layer_(first_layer),
      most_rows_(decoder.most_rows()),
      reference_(std::move(reference)),
      errors_(backend.make_tensor<double, 1>({(decoder.n_layers() - first_layer) * most_rows_})),
      spans_(static_cast<size_t>(decoder.n_layers() - first_layer)) {
  decoder.observe_hidden([this](int64_t layer, std::span<const WindowSpan> spans, const Tensor<float, 2>& x) {
    if (layer >= first_layer_) compare(layer, spans, x);
  });
}

void HiddenErrors::compare(int64_t layer, std::span<const WindowSpan> spans, const Tensor<float, 2>& x) {
  const int64_t index = layer - first_layer_;
  std::vector<Tensor<float, 2>> references;
  for (const WindowSpan& span : spans) references.push_back(reference_(layer, span));
  backend_.compare_rows(x, references, backend_.rows_of(errors_, index * most_rows_, x.shape[0]));
  spans_[static_cast<size_t>(index)].assign(spans.begin(), spans.end());
}

HiddenErrors::OfStep HiddenErrors::last_step() const {
  OfStep step;
  step.first_layer_ = first_layer_;
  step.most_rows_ = most_rows_;
  step.spans_ = spans_;
  step.errors_ = backend_.begin_to_host(errors_);
  return step;
}

}  // namespace hindsight
