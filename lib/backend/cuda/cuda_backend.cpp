#include "backend/cuda/cuda_backend.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <nvtx3/nvtx3.hpp>
#include <set>
#include <stdexcept>

#include "backend/cuda/check.h"
#include "backend/cuda/residency.h"
#include "backend/cuda/stopwatch.h"
#include "core/error.h"
#include "kernels/kernels.h"

namespace hindsight::cuda {
namespace {

static_assert(sizeof(BlockStep) == sizeof(kernels::Step) &&
              offsetof(BlockStep, sequence) == offsetof(kernels::Step, sequence) &&
              offsetof(BlockStep, position) == offsetof(kernels::Step, position) &&
              offsetof(BlockStep, row) == offsetof(kernels::Step, row) &&
              offsetof(BlockStep, window_rows) == offsetof(kernels::Step, window_rows));
static_assert(sizeof(TokenRange) == sizeof(kernels::TokenRange) &&
              offsetof(TokenRange, sequence) == offsetof(kernels::TokenRange, sequence) &&
              offsetof(TokenRange, from) == offsetof(kernels::TokenRange, from) &&
              offsetof(TokenRange, to) == offsetof(kernels::TokenRange, to));

static_assert(SelectionColumns::loaded == kernels::kSelectionLoaded &&
              SelectionColumns::kept == kernels::kSelectionKept &&
              SelectionColumns::best == kernels::kSelectionBest &&
              SelectionColumns::best_loaded == kernels::kSelectionBestLoaded &&
              SelectionColumns::own_tokens == kernels::kSelectionOwnTokens &&
              SelectionColumns::late_ranks == kernels::kSelectionLateRanks &&
              SelectionColumns::late_rank_bins == kernels::kLateRankBins &&
              SelectionColumns::shown == kernels::kSelectionShown);

const kernels::Step* steps_of(const Block& block) {
  return reinterpret_cast<const kernels::Step*>(block.on_backend.data());
}
int32_t int32(int64_t x) { return static_cast<int32_t>(x); }

kernels::PageLists lists_of(const PageLists& lists) {
  return {lists.pages.data(), lists.count.data(), int32(lists.pages.shape[2])};
}

kernels::Combine combine_of(Combine combine) {
  switch (combine) {
    case Combine::max:
      return kernels::Combine::max;
    case Combine::mean:
      return kernels::Combine::mean;
    case Combine::sum:
      return kernels::Combine::sum;
  }
  throw std::invalid_argument("unknown way to combine scores");
}

kernels::Newest newest_of(Newest newest) {
  switch (newest) {
    case Newest::forced:
      return kernels::Newest::forced;
    case Newest::competes:
      return kernels::Newest::competes;
    case Newest::extra:
      return kernels::Newest::extra;
  }
  throw std::invalid_argument("unknown treatment of the newest page");
}

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

/// Most steps in a row of one sequence.
int64_t longest_run(const Block& block) {
  int64_t longest = 0, run = 0;
  for (size_t i = 0; i < block.steps.size(); ++i) {
    run = i > 0 && block.steps[i].sequence == block.steps[i - 1].sequence ? run + 1 : 1;
    longest = std::max(longest, run);
  }
  return longest;
}

/// Kernels read what the block's steps name without a check of their own.
void require_readable(const Layer& layer, const KvCache& cache, const Block& block, int64_t window) {
  for (const BlockStep& step : block.steps) {
    require(step.sequence >= 0 && step.sequence < static_cast<int64_t>(cache.n_appended.size()),
            "a step names a sequence that the batch lacks");
    require(step.position < cache.n_appended[step.sequence], "a step attends to tokens not yet appended");
    const int64_t slots = std::clamp<int64_t>(window, 1, std::max(step.window_rows, 1));
    require(step.position - (slots - 1) >= layer.q_start[step.sequence],
            "a step's window reaches before the sequence's first query");
  }
}

}  // namespace

CudaBackend::CudaBackend(int index)
    : device_(std::make_shared<Device>(index)),
      staging_(device_, device_->stream()),
      layer_stream_(*device_),
      layer_staging_(device_, layer_stream_.get()),
      landings_(std::make_shared<Landings>(device_)),
      workspace_(device_),
      arguments_(device_),
      arrived_(device_, kernels::kStreamProblems * static_cast<int64_t>(sizeof(int32_t))) {
  cuda_check(cudaMemsetAsync(arrived_.data(), 0, static_cast<size_t>(arrived_.bytes()), device_->stream()));
}

std::string CudaBackend::device_name() const {
  return fmt::format("cuda:{} {}", device_->index(), device_->name());
}

std::string CudaBackend::driver() const {
  int driver = 0, runtime = 0;
  cuda_check(cudaDriverGetVersion(&driver));
  cuda_check(cudaRuntimeGetVersion(&runtime));
  return fmt::format("CUDA driver {}.{}, runtime {}.{}", driver / 1000, driver % 1000 / 10, runtime / 1000,
                     runtime % 1000 / 10);
}

std::string CudaBackend::unsupported(DType, int64_t head_dim, int64_t group, int64_t page_size,
                                     int64_t window) const {
  if (std::ranges::find(kernels::kHeadDims, head_dim) == std::end(kernels::kHeadDims))
    return fmt::format("the CUDA backend cannot run head_dim {}; it can run {}", head_dim,
                       fmt::join(kernels::kHeadDims, ", "));
  if (group < 1 || group > kernels::kMaxGroup)
    return fmt::format("the CUDA backend cannot run {} query heads per KV head; it can run 1 to {}", group,
                       kernels::kMaxGroup);
  if (page_size < kernels::kMinPageSize || page_size > kernels::kMaxPageSize)
    return fmt::format("the CUDA backend cannot run page size {}; it can run {} to {}", page_size,
                       kernels::kMinPageSize, kernels::kMaxPageSize);
  if (window < 1 || window > kernels::kMaxWindow)
    return fmt::format("the CUDA backend cannot run window {}; it can run 1 to {}", window,
                       kernels::kMaxWindow);
  if (const int64_t needed = kernels::attention_shared_bytes(int32(head_dim));
      needed > device_->shared_bytes_per_block())
    return fmt::format(
        "{} cannot run head_dim {}: it needs {} bytes of shared memory of {}; a smaller head_dim can run",
        device_name(), head_dim, needed, device_->shared_bytes_per_block());
  return "";
}

std::shared_ptr<Storage> CudaBackend::allocate(int64_t bytes) {
  return std::make_shared<DeviceMemory>(device_, bytes);
}

void CudaBackend::upload(void* target, const void* source, int64_t bytes) {
  if (being_recorded_ != nullptr)
    copy(target, argument(source, bytes), bytes);
  else
    staging_.upload(target, source, bytes);
}

void CudaBackend::download(void* target, const void* source, int64_t bytes) {
  staging_.download(target, source, bytes);
}

std::unique_ptr<Transfer> CudaBackend::begin_download(const void* source, int64_t bytes) {
  return landings_->begin(source, bytes);
}

void CudaBackend::copy(void* target, const void* source, int64_t bytes) {
  if (bytes == 0 || !device_->enqueues()) return;
  device_->use();
  cuda_check(cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                             device_->stream()));
}

std::unique_ptr<Stopwatch> CudaBackend::make_stopwatch() { return std::make_unique<EventStopwatch>(device_); }

void* CudaBackend::argument(const void* values, int64_t bytes) {
  if (being_recorded_ != nullptr) return being_recorded_->argument(values, bytes);
  return arguments_.send(staging_, values, bytes);
}

std::unique_ptr<Recording> CudaBackend::record(const std::function<void()>& set_up,
                                               const std::function<void()>& work) {
  auto recording = std::make_unique<GraphRecording>(device_, staging_, being_recorded_);
  recording->run(set_up, work);
  recording->capture(set_up, work);
  recording->keep(workspace_.memory());
  return recording;
}

std::unique_ptr<Layer> CudaBackend::load_layer(std::span<const LayerTensors> batch) {
  auto layer = std::make_unique<CudaLayer>(device_, layer_staging_, batch);
  layer_stream_.synchronize();
  return layer;
}

std::unique_ptr<KvCache> CudaBackend::make_cache(const Layer& layer, int64_t page_size) {
  const std::string reason = unsupported(layer.dtype, layer.head_dim, layer.group(), page_size, 1);
  if (!reason.empty()) throw EnvironmentError(reason);
  return std::make_unique<CudaCache>(device_, staging_, layer, page_size);
}

std::unique_ptr<Layer> CudaBackend::make_growing_layer(const LayerShape& shape,
                                                       std::span<const int64_t> capacities) {
  return std::make_unique<CudaLayer>(device_, staging_, shape, capacities);
}

void CudaBackend::set_queries(Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> q) {
  const nvtx3::scoped_range range_name{"set_queries"};
  auto& target = dynamic_cast<CudaLayer&>(layer);
  std::vector<kernels::RowRange> on_host;
  int64_t longest = 0;
  for (const RowRange& range : ranges) {
    require(range.first_row + range.n <= q.shape[0], "a range has more rows than there are queries");
    layer.q_start[range.sequence] = range.first_position;
    on_host.push_back({range.sequence, range.first_position, range.n, range.first_row, 0});
    longest = std::max(longest, range.n);
  }
  device_->use();
  void* const queries = target.queries_for(device_, q.shape[0]);
  const kernels::RowRange* const on_device = ranges_on_device(on_host);
  if (device_->enqueues())
    cuda_check(kernels::set_queries({.heads = target.heads(),
                                     .q = q.data(),
                                     .ranges = on_device,
                                     .n_ranges = int32(static_cast<int64_t>(ranges.size())),
                                     .longest = longest,
                                     .queries = queries,
                                     .first_row = target.q_first_row()},
                                    device_->stream()));
}

void CudaBackend::write(KvCache& cache, const Layer& layer, std::span<const RowRange> ranges,
                        Tensor<float, 3> k, Tensor<float, 3> v, Summaries summaries) {
  const nvtx3::scoped_range range_name{"write"};
  auto& target = dynamic_cast<CudaCache&>(cache);
  std::vector<kernels::RowRange> on_host;
  int64_t longest = 0;
  for (const RowRange& range : ranges) {
    int64_t& has = cache.n_appended[range.sequence];
    const int64_t end = range.first_position + range.n;
    if (range.first_position > has || end > layer.n_tokens[range.sequence])
      throw std::invalid_argument("rows leave a gap in their sequence or exceed it");
    require(range.first_row + range.n <= k.shape[0], "a range has more rows than there are keys");
    on_host.push_back({range.sequence, range.first_position, range.n, range.first_row, has});
    has = std::max(has, end);
    longest = std::max(longest, range.n);
  }
  device_->use();
  const kernels::RowRange* const on_device = ranges_on_device(on_host);
  if (device_->enqueues())
    cuda_check(kernels::write_rows({.heads = dynamic_cast<const CudaLayer&>(layer).heads(),
                                    .kv = target.pages(),
                                    .k = k.data(),
                                    .v = v.data(),
                                    .ranges = on_device,
                                    .n_ranges = int32(static_cast<int64_t>(ranges.size())),
                                    .longest = longest,
                                    .widen = summaries == Summaries::widen},
                                   device_->stream()));
}

const kernels::RowRange* CudaBackend::ranges_on_device(std::span<const kernels::RowRange> ranges) {
  return static_cast<const kernels::RowRange*>(
      argument(ranges.data(), static_cast<int64_t>(ranges.size_bytes())));
}

void CudaBackend::copy_rows(Tensor<float, 2> from, Tensor<int32_t, 1> from_rows, Tensor<float, 2> to,
                            Tensor<int32_t, 1> to_rows, int64_t n) {
  require(from.shape[1] == to.shape[1], "rows differ in width");
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::copy_rows({.from = from.data(),
                                   .from_rows = from_rows.data(),
                                   .to = to.data(),
                                   .to_rows = to_rows.data(),
                                   .n = n,
                                   .width = from.shape[1]},
                                  device_->stream()));
}

void CudaBackend::compare_rows(Tensor<float, 2> x, std::span<const Tensor<float, 2>> references,
                               Tensor<double, 1> errors) {
  const nvtx3::scoped_range range_name{"compare_rows"};
  require_comparable(x, references, errors);
  std::vector<const float*> rows;
  for (const Tensor<float, 2>& reference : references)
    for (int64_t i = 0; i < reference.shape[0]; ++i)
      rows.push_back(reference.data() + i * reference.shape[1]);
  const void* const on_device =
      argument(rows.data(), static_cast<int64_t>(rows.size() * sizeof(const float*)));
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::compare_rows({.x = x.data(),
                                      .references = static_cast<const float* const*>(on_device),
                                      .n = x.shape[0],
                                      .width = x.shape[1],
                                      .errors = errors.data()},
                                     device_->stream()));
}

ModelPrimitives* CudaBackend::model_primitives() {
  if (!model_primitives_) model_primitives_ = std::make_unique<CudaModelPrimitives>(device_);
  return model_primitives_.get();
}

void CudaBackend::append(KvCache& cache, const Layer& layer, std::span<const TokenRange> ranges) {
  const nvtx3::scoped_range range_name{"append"};
  const auto& source = dynamic_cast<const CudaLayer&>(layer);
  auto& target = dynamic_cast<CudaCache&>(cache);
  require(source.k() != nullptr, "a growing layer has no tokens of its own to append");
  int64_t longest = 0;
  for (const TokenRange& range : ranges) {
    require(range.from == cache.n_appended[range.sequence] && range.to >= range.from &&
                range.to <= layer.n_tokens[range.sequence],
            "a range of tokens does not continue its sequence");
    cache.n_appended[range.sequence] = range.to;
    longest = std::max(longest, range.to - range.from);
  }
  const auto bytes = static_cast<int64_t>(ranges.size_bytes());
  void* const on_device = argument(ranges.data(), bytes);
  if (device_->enqueues())
    cuda_check(kernels::append({.heads = source.heads(),
                                .kv = target.pages(),
                                .k = source.k(),
                                .v = source.v(),
                                .first_row = source.kv_first_row(),
                                .ranges = static_cast<const kernels::TokenRange*>(on_device),
                                .n_ranges = int32(static_cast<int64_t>(ranges.size())),
                                .longest = longest},
                               device_->stream()));
}

void CudaBackend::truncate(KvCache& cache, const Layer&, std::span<const int64_t> to) {
  require(to.size() == cache.n_appended.size(), "truncate needs a length per sequence");
  for (size_t s = 0; s < to.size(); ++s)
    require(to[s] <= cache.n_appended[s], "truncate cannot lengthen a sequence");
  std::copy(to.begin(), to.end(), cache.n_appended.begin());
}

void CudaBackend::dense(const Layer& layer, const KvCache& cache, const Block& block, Tensor<float, 3> out,
                        Tensor<float, 2> lse) {
  const nvtx3::scoped_range range_name{"dense"};
  require_readable(layer, cache, block, 1);
  const auto& on_device = dynamic_cast<const CudaLayer&>(layer);
  int64_t longest = 0, shared_neighbours = 0;
  for (size_t i = 0; i < block.steps.size(); ++i) {
    longest = std::max<int64_t>(longest, block.steps[i].position + 1);
    shared_neighbours += i > 0 && block.steps[i].sequence == block.steps[i - 1].sequence;
  }
  kernels::DenseParams params{.heads = on_device.heads(),
                              .scale = static_cast<float>(layer.scale),
                              .kv = dynamic_cast<const CudaCache&>(cache).pages(),
                              .q = on_device.queries(),
                              .steps = steps_of(block),
                              .n_steps = int32(block.size()),
                              .steps_per_tile = 1,
                              .stream_blocks = 0,
                              .out = out.data(),
                              .lse = lse.data(),
                              .splits = 1,
                              .workspace = nullptr,
                              .arrived = static_cast<int32_t*>(arrived_.data())};
  device_->use();
  if (longest_run(block) == block.size()) {
    if (const auto plan = kernels::plan_dense_block(params, longest, device_->limits()); plan.splits > 0) {
      params.splits = plan.splits;
      params.workspace = workspace_.at_least(plan.workspace_bytes);
      if (device_->enqueues()) cuda_check(kernels::dense_block(params, device_->stream()));
      return;
    }
  }
  const kernels::DensePlan plan =
      kernels::plan_dense(params, longest, 2 * shared_neighbours > block.size(), device_->multiprocessors());
  params.steps_per_tile = plan.steps_per_tile;
  params.stream_blocks = plan.stream_blocks;
  params.splits = plan.split.splits;
  params.workspace = workspace_.at_least(plan.split.workspace_bytes);
  if (device_->enqueues()) cuda_check(kernels::dense(params, device_->stream()));
}

void CudaBackend::score_pages(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                              bool round_to_storage, Tensor<float, 3> scores) {
  const nvtx3::scoped_range range_name{"score_pages"};
  require_readable(layer, cache, block, 1);
  require(scores.shape[2] <= cache.max_pages, "scores have more pages than the cache");
  const auto& on_device = dynamic_cast<const CudaLayer&>(layer);
  device_->use();
  const kernels::ScorePagesParams params{.heads = on_device.heads(),
                                         .kv = dynamic_cast<const CudaCache&>(cache).pages(),
                                         .q = on_device.queries(),
                                         .steps = steps_of(block),
                                         .n_steps = int32(block.size()),
                                         .longest_run = int32(longest_run(block)),
                                         .per_kv_head = policy.unit == Unit::per_kv_head,
                                         .combine = combine_of(policy.combine),
                                         .round_to_storage = round_to_storage,
                                         .scores = scores.data(),
                                         .n_pages = int32(scores.shape[2])};
  const bool by_groups =
      params.longest_run == params.n_steps && kernels::takes_score_block(params, device_->limits());
  if (!device_->enqueues()) return;
  cuda_check(by_groups ? kernels::score_block(params, device_->limits(), device_->stream())
                       : kernels::score_pages(params, device_->stream()));
}

void CudaBackend::page_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                            Tensor<float, 2> lse, Tensor<float, 3> mass) {
  const nvtx3::scoped_range range_name{"page_mass"};
  require_readable(layer, cache, block, 1);
  require(mass.shape[2] <= cache.max_pages, "masses have more pages than the cache");
  const auto& on_device = dynamic_cast<const CudaLayer&>(layer);
  device_->use();
  const kernels::PageMassParams params{.heads = on_device.heads(),
                                       .scale = static_cast<float>(layer.scale),
                                       .kv = dynamic_cast<const CudaCache&>(cache).pages(),
                                       .q = on_device.queries(),
                                       .steps = steps_of(block),
                                       .n_steps = int32(block.size()),
                                       .longest_run = int32(longest_run(block)),
                                       .per_kv_head = unit == Unit::per_kv_head,
                                       .lse = lse.data(),
                                       .mass = mass.data(),
                                       .n_pages = int32(mass.shape[2])};
  const bool by_groups =
      params.longest_run == params.n_steps && kernels::takes_mass_block(params, device_->limits());
  if (!device_->enqueues()) return;
  cuda_check(by_groups ? kernels::mass_block(params, device_->stream())
                       : kernels::page_mass(params, device_->stream()));
}

void CudaBackend::random_scores(const Layer& layer, const KvCache& cache, const Block& block, uint64_t seed,
                                Tensor<float, 3> scores) {
  const nvtx3::scoped_range range_name{"random_scores"};
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::random_scores({.steps = steps_of(block),
                                       .n_steps = int32(block.size()),
                                       .n_units = int32(scores.shape[1]),
                                       .page_size = int32(cache.page_size),
                                       .seed = seed,
                                       .layer = layer.layer,
                                       .scores = scores.data(),
                                       .n_pages = int32(scores.shape[2])},
                                      device_->stream()));
}

void CudaBackend::select_top_k(const KvCache& cache, const Block& block, Tensor<float, 3> scores,
                               std::span<const int32_t> k, Newest newest, PageLists lists) {
  const nvtx3::scoped_range range_name{"select_top_k"};
  require_selectable(cache.page_size, block, scores, k, newest, lists);
  const auto bytes = static_cast<int64_t>(k.size_bytes());
  void* const k_on_device = argument(k.data(), bytes);
  if (device_->enqueues())
    cuda_check(kernels::select_top_k({.steps = steps_of(block),
                                      .n_steps = int32(block.size()),
                                      .n_units = int32(scores.shape[1]),
                                      .page_size = int32(cache.page_size),
                                      .scores = scores.data(),
                                      .n_pages = int32(scores.shape[2]),
                                      .k = static_cast<const int32_t*>(k_on_device),
                                      .newest = newest_of(newest),
                                      .lists = lists_of(lists)},
                                     device_->stream()));
}

void CudaBackend::note_loads(const Block& block, const PageLists& lists, Tensor<int32_t, 3> last_loaded,
                             Tensor<int32_t, 3> previous) {
  const nvtx3::scoped_range range_name{"note_loads"};
  require(previous.shape == lists.pages.shape, "`previous` and the page lists differ in shape");
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::note_loads({.steps = steps_of(block),
                                    .n_steps = int32(block.size()),
                                    .n_units = int32(last_loaded.shape[1]),
                                    .n_sequences = int32(last_loaded.shape[0]),
                                    .lists = lists_of(lists),
                                    .last_loaded = last_loaded.data(),
                                    .n_pages = int32(last_loaded.shape[2]),
                                    .previous = previous.data()},
                                   device_->stream()));
}

void CudaBackend::attend(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                         const PageLists& lists, Tensor<int32_t, 3> previous, int64_t window,
                         Partials partials) {
  const nvtx3::scoped_range range_name{"attend"};
  require_readable(layer, cache, block, window);
  require(window == 1 || previous.shape == lists.pages.shape,
          "`previous` and the page lists differ in shape");
  const auto& on_device = dynamic_cast<const CudaLayer&>(layer);
  kernels::AttendParams params{.heads = on_device.heads(),
                               .scale = static_cast<float>(layer.scale),
                               .kv = dynamic_cast<const CudaCache&>(cache).pages(),
                               .q = on_device.queries(),
                               .steps = steps_of(block),
                               .n_steps = int32(block.size()),
                               .per_kv_head = policy.unit == Unit::per_kv_head,
                               .window = int32(window),
                               .lists = lists_of(lists),
                               .previous = previous.data(),
                               .out = partials.out.data(),
                               .lse = partials.lse.data(),
                               .is_stream = false,
                               .splits = 1,
                               .workspace = nullptr,
                               .arrived = static_cast<int32_t*>(arrived_.data())};
  device_->use();
  const kernels::AttendPlan plan = kernels::plan_attend(params, device_->multiprocessors());
  params.is_stream = plan.is_stream;
  params.splits = plan.split.splits;
  params.workspace = workspace_.at_least(plan.split.workspace_bytes);
  if (device_->enqueues()) cuda_check(kernels::attend(params, device_->stream()));
}

void CudaBackend::merge(const Block& block, int64_t window, const Partials& partials, Outputs outputs) {
  const nvtx3::scoped_range range_name{"merge"};
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::merge({.steps = steps_of(block),
                               .n_steps = int32(block.size()),
                               .window = int32(window),
                               .slots = int32(partials.out.shape[1]),
                               .n_q_heads = int32(outputs.out.shape[1]),
                               .head_dim = int32(outputs.out.shape[2]),
                               .partial_out = partials.out.data(),
                               .partial_lse = partials.lse.data(),
                               .out = outputs.out.data(),
                               .lse = outputs.lse.data()},
                              device_->stream()));
}

kernels::StepPlan CudaBackend::planned_step(const kernels::DecodeStepParams& params) {
  const StepShape shape{static_cast<int32_t>(params.heads.type),
                        params.heads.n_q_heads,
                        params.heads.n_kv_heads,
                        params.heads.head_dim,
                        params.kv.page_size,
                        params.n_steps,
                        params.lists.capacity,
                        params.n_pages,
                        params.window};
  const auto [planned, is_new] = planned_steps_.try_emplace(shape);
  if (is_new) planned->second = kernels::plan_decode_step(params, device_->limits());
  return planned->second;
}

bool CudaBackend::decode_step(KvCache& cache, const Layer& layer, const Block& block, const BoundStep& step) {
  const nvtx3::scoped_range range_name{"decode_step"};
  const auto& on_device = dynamic_cast<const CudaLayer&>(layer);
  const auto& target = dynamic_cast<const CudaCache&>(cache);
  kernels::DecodeStepParams params{.heads = on_device.heads(),
                                   .scale = static_cast<float>(layer.scale),
                                   .kv = target.pages(),
                                   .q = on_device.queries(),
                                   .appended_k = step.is_written ? nullptr : on_device.k(),
                                   .appended_v = on_device.v(),
                                   .first_row = on_device.kv_first_row(),
                                   .steps = steps_of(block),
                                   .n_steps = int32(block.size()),
                                   .combine = combine_of(step.combine),
                                   .round_to_storage = step.round_to_storage,
                                   .k = nullptr,
                                   .newest = newest_of(step.newest),
                                   .lists = lists_of(step.lists),
                                   .n_pages = int32(cache.max_pages),
                                   .window = int32(step.window),
                                   .last_loaded = step.last_loaded.data(),
                                   .out = step.outputs.out.data(),
                                   .lse = step.outputs.lse.data(),
                                   .plan = {}};
  require(step.is_written || on_device.k() != nullptr, "a growing layer has no tokens of its own to append");
  device_->use();
  params.plan = planned_step(params);
  if (params.plan.cluster == 0) return false;

  std::set<int32_t> sequences;
  for (const BlockStep& row : block.steps) {
    require(sequences.insert(row.sequence).second, "a decode step takes one row of each sequence");
    const int64_t has = cache.n_appended[row.sequence];
    require(step.is_written ? row.position < has
                            : row.position == has && row.position < layer.n_tokens[row.sequence],
            "a decode step does not continue its sequence");
  }
  require(step.lists.pages.shape[1] == layer.n_kv_heads, "a decode step has page sets per KV head");
  require(step.window == 1 || step.last_loaded.shape[2] == cache.max_pages,
          "last_loaded and the cache differ in pages");
  if (!step.is_written)
    for (const BlockStep& row : block.steps) cache.n_appended[row.sequence] = row.position + 1;
  require_readable(layer, cache, block, step.window);
  // Its own scores never leave the device; their shape is that of the cache.
  Tensor<float, 3> scores;
  scores.shape = {block.size(), layer.n_kv_heads, cache.max_pages};
  require_selectable(cache.page_size, block, scores, step.k, step.newest, step.lists);
  params.k = static_cast<const int32_t*>(argument(step.k.data(), static_cast<int64_t>(step.k.size_bytes())));
  if (device_->enqueues()) cuda_check(kernels::decode_step(params, device_->stream()));
  return true;
}

void CudaBackend::compare(const Outputs& outputs, int64_t first_row, Tensor<float, 3> reference_out,
                          Tensor<float, 2> reference_lse, Tensor<float, 3> errors) {
  const nvtx3::scoped_range range_name{"compare"};
  const int64_t heads = outputs.out.shape[1], d = outputs.out.shape[2];
  require(errors.shape == std::array{FidelityErrors::count, reference_out.shape[0], heads},
          "errors have another shape than the outputs ask for");
  const auto of = [&](int64_t which) { return errors.data() + which * reference_lse.size(); };
  device_->use();
  if (device_->enqueues())
    cuda_check(kernels::compare({.out = outputs.out.data() + first_row * heads * d,
                                 .lse = outputs.lse.data() + first_row * heads,
                                 .reference_out = reference_out.data(),
                                 .reference_lse = reference_lse.data(),
                                 .rows = reference_lse.size(),
                                 .head_dim = int32(d),
                                 .rel_l2 = of(FidelityErrors::rel_l2),
                                 .cosine = of(FidelityErrors::cosine),
                                 .recall = of(FidelityErrors::mass_recall)},
                                device_->stream()));
}

void CudaBackend::count_selection(const KvCache& cache, const Block& block, const SelectionSets& sets,
                                  int64_t window, Tensor<int32_t, 3> counts) {
  const nvtx3::scoped_range range_name{"count_selection"};
  require(sets.previous.shape == sets.loaded.pages.shape, "`previous` and the page lists differ in shape");
  require(counts.shape[0] == block.size() && counts.shape[1] == sets.loaded.pages.shape[1] &&
              counts.shape[2] == SelectionColumns::count(window),
          "counts have another shape than the page sets ask for");
  device_->use();
  if (!device_->enqueues()) return;
  cuda_check(kernels::count_selection({.steps = steps_of(block),
                                       .n_steps = int32(block.size()),
                                       .n_units = int32(counts.shape[1]),
                                       .units_per_kv_head = int32(sets.units_per_kv_head),
                                       .page_size = int32(cache.page_size),
                                       .n_pages = int32(cache.max_pages),
                                       .window = int32(window),
                                       .loaded = lists_of(sets.loaded),
                                       .previous = sets.previous.data(),
                                       .count_before = sets.count_before.data(),
                                       .scores_before = sets.scores_before.data(),
                                       .best = lists_of(sets.best),
                                       .counts = counts.data()},
                                      device_->stream()));
}

}  // namespace hindsight::cuda
