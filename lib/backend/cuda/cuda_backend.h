#pragma once
// The CUDA backend: turns tensors and blocks into the parameters of kernels/kernels.h, and enqueues on one
// stream. Layers are uploaded on another.

#include <array>
#include <map>
#include <memory>

#include "backend/backend.h"
#include "backend/cuda/cuda_model_primitives.h"
#include "backend/cuda/device.h"
#include "backend/cuda/landings.h"
#include "backend/cuda/recording.h"
#include "backend/cuda/staging.h"

namespace hindsight::cuda {

class CudaBackend final : public Backend {
 public:
  /// Throws EnvironmentError where the device cannot be used.
  explicit CudaBackend(int index);

  std::string device_name() const override;
  std::string driver() const override;
  int64_t available_bytes() const override { return device_->available_bytes(); }
  std::string unsupported(DType dtype, int64_t head_dim, int64_t group, int64_t page_size,
                          int64_t window) const override;

  std::shared_ptr<Storage> allocate(int64_t bytes) override;
  void upload(void* target, const void* source, int64_t bytes) override;
  void download(void* target, const void* source, int64_t bytes) override;
  std::unique_ptr<Transfer> begin_download(const void* source, int64_t bytes) override;
  void copy(void* target, const void* source, int64_t bytes) override;
  std::unique_ptr<Stopwatch> make_stopwatch() override;
  std::unique_ptr<Recording> record(const std::function<void()>& set_up,
                                    const std::function<void()>& work) override;

  std::unique_ptr<Layer> load_layer(std::span<const LayerTensors> batch) override;
  std::unique_ptr<KvCache> make_cache(const Layer& layer, int64_t page_size) override;

  std::unique_ptr<Layer> make_growing_layer(const LayerShape& shape,
                                            std::span<const int64_t> capacities) override;
  void set_queries(Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> q) override;
  void write(KvCache& cache, const Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> k,
             Tensor<float, 3> v, Summaries summaries) override;
  void copy_rows(Tensor<float, 2> from, Tensor<int32_t, 1> from_rows, Tensor<float, 2> to,
                 Tensor<int32_t, 1> to_rows, int64_t n) override;
  void compare_rows(Tensor<float, 2> x, std::span<const Tensor<float, 2>> references,
                    Tensor<double, 1> errors) override;
  ModelPrimitives* model_primitives() override;

  void append(KvCache& cache, const Layer& layer, std::span<const TokenRange> ranges) override;
  void truncate(KvCache& cache, const Layer& layer, std::span<const int64_t> to) override;
  void dense(const Layer& layer, const KvCache& cache, const Block& block, Tensor<float, 3> out,
             Tensor<float, 2> lse) override;
  void score_pages(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                   bool round_to_storage, Tensor<float, 3> scores) override;
  void page_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                 Tensor<float, 2> lse, Tensor<float, 3> mass) override;
  void random_scores(const Layer& layer, const KvCache& cache, const Block& block, uint64_t seed,
                     Tensor<float, 3> scores) override;
  void select_top_k(const KvCache& cache, const Block& block, Tensor<float, 3> scores,
                    std::span<const int32_t> k, Newest newest, PageLists lists) override;
  void note_loads(const Block& block, const PageLists& lists, Tensor<int32_t, 3> last_loaded,
                  Tensor<int32_t, 3> previous) override;
  void attend(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
              const PageLists& lists, Tensor<int32_t, 3> previous, int64_t window,
              Partials partials) override;
  void merge(const Block& block, int64_t window, const Partials& partials, Outputs outputs) override;
  bool decode_step(KvCache& cache, const Layer& layer, const Block& block, const BoundStep& step) override;
  void compare(const Outputs& outputs, int64_t first_row, Tensor<float, 3> reference_out,
               Tensor<float, 2> reference_lse, Tensor<float, 3> errors) override;
  void count_selection(const KvCache& cache, const Block& block, const SelectionSets& sets, int64_t window,
                       Tensor<int32_t, 3> counts) override;

 private:
  /// A small array of the host on the device, for the next primitive.
  void* argument(const void* values, int64_t bytes);
  const kernels::RowRange* ranges_on_device(std::span<const kernels::RowRange> ranges);
  /// kernels::plan_decode_step, which asks CUDA for the occupancy: once for every shape.
  kernels::StepPlan planned_step(const kernels::DecodeStepParams& params);

  std::shared_ptr<Device> device_;
  Staging staging_;
  Stream layer_stream_;    ///< of load_layer: layers come while others are computed with
  Staging layer_staging_;  ///< used by load_layer alone
  std::shared_ptr<Landings> landings_;
  Scratch workspace_;     ///< of kernels: partial results of splits, errors
  SentArrays arguments_;  ///< small arrays from the host that primitives read
  DeviceMemory arrived_;  ///< counters of split launches, zeros between them
  std::unique_ptr<CudaModelPrimitives> model_primitives_;  ///< made when first asked for
  using StepShape = std::array<int32_t, 9>;                ///< all that planning depends on
  std::map<StepShape, kernels::StepPlan> planned_steps_;
  GraphRecording* being_recorded_ = nullptr;  ///< keeps the arguments of its primitives
};

}  // namespace hindsight::cuda
