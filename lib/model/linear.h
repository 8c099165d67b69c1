#pragma once
// Linear layers on the CPU. A row's result has the same bits whatever rows are computed beside it and however
// many threads compute them: each element is one sum in one order. So neither the batch nor the machine
// decides what a model writes, and a position that is computed again is computed the same.

#include <Eigen/Core>
#include <cstdint>
#include <span>
#include <vector>

namespace hindsight {

/// y = W x + b. W is kept in panels of outputs, so that a panel's weights stream past while rows of x stay in
/// the cache.
class Linear {
 public:
  Linear() = default;
  /// weights: [outputs, inputs] row-major; bias: [outputs] or empty.
  Linear(std::span<const float> weights, std::span<const float> bias, int64_t outputs, int64_t inputs);

  /// x [rows, inputs] -> y [rows, outputs], row-major.
  void apply(const float* x, int64_t rows, float* y) const;

  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }
  int64_t bytes() const { return static_cast<int64_t>(panels_.size()) * static_cast<int64_t>(sizeof(float)); }

 private:
  int64_t inputs_ = 0, outputs_ = 0;
  std::vector<float, Eigen::aligned_allocator<float>> panels_;  ///< [panels][inputs][lanes], padded with 0
  std::vector<float> bias_;                                     ///< [outputs], 0 where there is none
};

}  // namespace hindsight
