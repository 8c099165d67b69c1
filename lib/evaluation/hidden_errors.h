#pragma once
// How far the residual stream of sequences that are decoded together is from what it should be. The backend
// compares within its steps, so that they stay recorded and only the errors come to the host.

#include <functional>
#include <span>
#include <vector>

#include "model/decoder.h"

namespace hindsight {

class HiddenErrors {
 public:
  /// Rows [span.rows, hidden] on the backend that those of the span's positions are compared with.
  using Reference = std::function<Tensor<float, 2>(int64_t layer, const WindowSpan& span)>;
  /// In layers from first_layer on. Has the decoder compare, and outlives its steps.
  HiddenErrors(Backend& backend, Decoder& decoder, int64_t first_layer, Reference reference);
  HiddenErrors(const HiddenErrors&) = delete;
  HiddenErrors& operator=(const HiddenErrors&) = delete;

  /// Errors of a step on their way to the host.
  class OfStep {
   public:
    /// Waits. Calls take(sequence, layer, position, is_newest, error) for every row x: error is
    /// ||x - r|| / ||r||, NaN where the reference r is 0.
    template <class Take>
    void show(Take&& take) const {
      const std::vector<double> errors = errors_.get();
      for (size_t index = 0; index < spans_.size(); ++index) {
        size_t row = index * static_cast<size_t>(most_rows_);
        for (const WindowSpan& span : spans_[index])
          for (int64_t position = span.first_position(); position <= span.position; ++position)
            take(span.sequence, first_layer_ + static_cast<int64_t>(index), position,
                 position == span.position, errors[row++]);
      }
    }

   private:
    friend class HiddenErrors;
    int64_t first_layer_ = 0, most_rows_ = 0;
    std::vector<std::vector<WindowSpan>> spans_;  // by layer
    Download<double> errors_;
  };
  /// Of the step that was handed over last.
  OfStep last_step() const;

 private:
  void compare(int64_t layer, std::span<const WindowSpan> spans, const Tensor<float, 2>& x);

  Backend& backend_;
  int64_t first_layer_, most_rows_;
  Reference reference_;
  Tensor<double, 1> errors_;                    // [layers, most rows]
  std::vector<std::vector<WindowSpan>> spans_;  // by layer
};

}  // namespace hindsight
