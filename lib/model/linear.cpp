#include "model/linear.h"

#include <omp.h>

#include <algorithm>

namespace hindsight {
namespace {

constexpr int64_t lanes = 16;   // outputs of a panel: two registers of eight
constexpr int64_t depth = 512;  // inputs of one partial sum: 32 kB of a panel, and less rounding than one sum
constexpr int64_t tile_rows = 6;     // rows that a panel's weights are used for once loaded
constexpr int64_t thread_rows = 48;  // rows of x that a thread takes at once

using Lanes = Eigen::Array<float, lanes, 1>;

/// Adds to y [n_rows, outputs] the products of `n` inputs with one panel. Rows is a constant, so that the
/// sums stay in registers.
template <int Rows>
void add_tile(const float* panel, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride,
              int64_t n_outputs) {
  Lanes sums[Rows];
  for (int r = 0; r < Rows; ++r) sums[r].setZero();
  for (int64_t i = 0; i < n; ++i) {
    const Lanes weights = Eigen::Map<const Lanes, Eigen::Aligned32>(panel + i * lanes);
    for (int r = 0; r < Rows; ++r) sums[r] += x[r * x_stride + i] * weights;
  }
  for (int r = 0; r < Rows; ++r)
    for (int64_t o = 0; o < n_outputs; ++o) y[r * y_stride + o] += sums[r][o];
}

void add_rows(const float* panel, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride,
              int64_t n_outputs, int64_t rows) {
  int64_t row = 0;
  for (; row + tile_rows <= rows; row += tile_rows)
    add_tile<tile_rows>(panel, n, x + row * x_stride, x_stride, y + row * y_stride, y_stride, n_outputs);
  for (; row + 2 <= rows; row += 2)
    add_tile<2>(panel, n, x + row * x_stride, x_stride, y + row * y_stride, y_stride, n_outputs);
  if (row < rows)
    add_tile<1>(panel, n, x + row * x_stride, x_stride, y + row * y_stride, y_stride, n_outputs);
}

}  // namespace

Linear::Linear(std::span<const float> weights, std::span<const float> bias, int64_t outputs, int64_t inputs)
    : inputs_(inputs),
      outputs_(outputs),
      panels_(static_cast<size_t>((outputs + lanes - 1) / lanes * lanes * inputs)),
      bias_(static_cast<size_t>(outputs)) {
  std::copy(bias.begin(), bias.end(), bias_.begin());
#pragma omp parallel for schedule(static)
  for (int64_t output = 0; output < outputs; ++output) {
    float* panel = panels_.data() + output / lanes * lanes * inputs + output % lanes;
    for (int64_t i = 0; i < inputs; ++i) panel[i * lanes] = weights[output * inputs + i];
  }
}

// Threads are woken for a millisecond of work or more: on a busy machine, waiting for one that has no core
// takes longer than a small product.
void Linear::apply(const float* x, int64_t rows, float* y) const {
  const int64_t panels = (outputs_ + lanes - 1) / lanes, blocks = (rows + thread_rows - 1) / thread_rows;
#pragma omp parallel for collapse(2) schedule(static) if (rows * inputs_ * outputs_ > 1 << 22)
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = block * thread_rows, n_rows = std::min(thread_rows, rows - first);
      const int64_t output = panel * lanes, n_outputs = std::min(lanes, outputs_ - output);
      float* target = y + first * outputs_ + output;
      for (int64_t row = 0; row < n_rows; ++row)
        std::copy_n(bias_.data() + output, n_outputs, target + row * outputs_);
      for (int64_t input = 0; input < inputs_; input += depth)
        add_rows(panels_.data() + panel * lanes * inputs_ + input * lanes, std::min(depth, inputs_ - input),
                 x + first * inputs_ + input, inputs_, target, outputs_, n_outputs, n_rows);
    }
  }
}

}  // namespace hindsight
