// What surrounds the primitives on the GPU: memory, transfers, errors against a reference, time, and
// refusals.

#include <gtest/gtest.h>

#include <future>

#include "core/error.h"
#include "support/gpu_test.h"
#include "support/primitive_case.h"

namespace hindsight::test {
namespace {

class GpuBackend : public GpuTest<> {};

TEST_F(GpuBackend, TransfersKeepEveryByte) {
  for (const int64_t size : {1, 7, 65536, 65537, 3'000'001}) {
    std::vector<int32_t> values(static_cast<size_t>(size));
    std::iota(values.begin(), values.end(), 5);
    const auto source = cuda_->make_tensor<int32_t, 1>({size}), target = filled<1>(*cuda_, {size}, -1);
    cuda_->upload(source.data(), values.data(), size * 4);
    cuda_->copy(target.data(), source.data(), size * 4);
    EXPECT_EQ(cuda_->to_host(target), values);
  }
}

// Uploads do not wait, so their sources change while earlier copies are under way.
TEST_F(GpuBackend, SmallUploadsMayFollowOneAnother) {
  constexpr int64_t n = 1000, size = 4096;
  const auto all = filled<2>(*cuda_, {n, size}, -1);
  std::vector<int32_t> values(size);
  for (int64_t i = 0; i < n; ++i) {
    std::fill(values.begin(), values.end(), static_cast<int32_t>(i));
    cuda_->upload(cuda_->rows_of(all, i, 1).data(), values.data(), size * 4);
  }
  const auto host = cuda_->to_host(all);
  for (int64_t i = 0; i < n * size; ++i) ASSERT_EQ(host[i], i / size);
}

TEST_F(GpuBackend, MemoryIsCountedAndRefused) {
  const int64_t before = cuda_->available_bytes();
  ASSERT_GT(before, 0);
  constexpr int64_t gib = int64_t{1} << 30;
  {
    const auto block = cuda_->allocate(gib);
    EXPECT_LE(cuda_->available_bytes(), before - gib);
  }
  EXPECT_GT(cuda_->available_bytes(), before - gib);
  try {
    cuda_->allocate(int64_t{1} << 50);
    FAIL() << "a PiB was allocated";
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
  }
  EXPECT_NO_THROW(cuda_->allocate(1024)) << "the failed allocation must leave nothing behind";
}

TEST_F(GpuBackend, ComparesWithAReference) {
  const int64_t rows = 13, first_row = 5, n = 7, heads = 3, d = 80;
  std::mt19937_64 generator(3);
  std::normal_distribution<float> normal;
  const auto random = [&](int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(generator);
    return values;
  };
  auto out = random(rows * heads * d), lse = random(rows * heads), reference = random(n * heads * d),
       reference_lse = random(n * heads);
  std::fill_n(reference.begin() + 2 * d, d, 0.0f);                             // a reference of 0
  std::fill_n(out.begin() + ((first_row + 1) * heads + 1) * d, d, 0.0f);       // an output of 0 ...
  lse[(first_row + 1) * heads + 1] = -std::numeric_limits<float>::infinity();  // ... that attended to nothing
  const auto run = [&](Backend& backend) {
    const auto errors = backend.make_tensor<float, 3>({FidelityErrors::count, n, heads});
    backend.compare({uploaded<3>(backend, {rows, heads, d}, out), uploaded<2>(backend, {rows, heads}, lse)},
                    first_row, uploaded<3>(backend, {n, heads, d}, reference),
                    uploaded<2>(backend, {n, heads}, reference_lse), errors);
    return backend.to_host(errors);
  };
  std::vector<float> actual = run(*cuda_), expected = run(*oracle_);
  for (const int64_t which : {FidelityErrors::rel_l2, FidelityErrors::cosine}) {
    const auto at = static_cast<size_t>(which * n * heads + 2);
    EXPECT_TRUE(std::isnan(actual[at]));
    EXPECT_TRUE(std::isnan(expected[at]));
    actual[at] = expected[at] = 0;
  }
  expect_close("errors", actual, expected, attention_tolerance);
}

// The tensor is written again, and its memory given away, before anybody waits.
TEST_F(GpuBackend, DownloadsBegunEarlierHaveWhatWasThereThen) {
  constexpr int64_t size = 3'000'001;
  std::vector<Download<int32_t>> downloads;
  for (int32_t value = 0; value < 20; ++value) {
    const auto tensor = filled<1>(*cuda_, {size}, value);
    downloads.push_back(cuda_->begin_to_host(tensor));
    const auto other = filled<1>(*cuda_, {size}, -1);
    cuda_->copy(tensor.data(), other.data(), size * 4);
  }
  for (int32_t value = 19; value >= 0; --value) {
    const std::vector<int32_t> arrived = downloads[static_cast<size_t>(value)].get();
    ASSERT_EQ(std::count(arrived.begin(), arrived.end(), value), size) << value;
  }
}

TEST_F(GpuBackend, DownloadsMayBeWaitedForElsewhere) {
  const auto tensor = filled<1>(*cuda_, {100'000}, 7);
  Download<int32_t> begun = cuda_->begin_to_host(tensor);
  const auto arrived =
      std::async(std::launch::async, [begun = std::move(begun)] { return begun.get(); }).get();
  EXPECT_EQ(arrived, std::vector<int32_t>(100'000, 7));
}

// Another thread brings layers while this one computes: each must arrive whole, and memory that was freed
// here must not be written there before it may be.
TEST_F(GpuBackend, LayersArriveBesideWork) {
  const LayerTensors tensors = random_layer({.n_tokens = 5000, .prompt_tokens = 4900, .head_dim = 64});
  constexpr int64_t page_size = 16;
  const auto scores_of = [&](const Layer& layer) {
    const auto cache = cuda_->make_cache(layer, page_size);
    const TokenRange all{0, 0, tensors.n_tokens};
    cuda_->append(*cache, layer, {&all, 1});
    std::vector<BlockStep> steps;
    for (int32_t i = 0; i < 100; ++i) steps.push_back({0, 4900 + i, i, 1});
    const auto scores = cuda_->make_tensor<float, 3>({100, layer.n_kv_heads, cache->max_pages});
    cuda_->score_pages(layer, *cache, cuda_->make_block(steps), {}, false, scores);
    return cuda_->begin_to_host(scores);
  };
  const std::vector<float> expected = scores_of(*cuda_->load_layer({&tensors, 1})).get();
  for (int repeat = 0; repeat < 20; ++repeat) {
    auto next = std::async(std::launch::async, [&] { return cuda_->load_layer({&tensors, 1}); });
    const auto busy = filled<1>(*cuda_, {1'000'000 * (repeat % 5 + 1)}, repeat);
    const Download<int32_t> kept = cuda_->begin_to_host(busy);
    ASSERT_EQ(scores_of(*next.get()).get(), expected);
    for (const int32_t value : kept.get()) ASSERT_EQ(value, repeat);
  }
}

TEST_F(GpuBackend, StopwatchTimesThePieces) {
  const auto stopwatch = cuda_->make_stopwatch();
  const int64_t bytes = int64_t{1} << 30;
  const auto a = cuda_->allocate(bytes), b = cuda_->allocate(bytes);
  for (int repeat = 0; repeat < 2; ++repeat) {
    stopwatch->mark();
    stopwatch->mark();
    cuda_->copy(a->data(), b->data(), bytes);
    stopwatch->mark();
    const auto intervals = stopwatch->intervals_us();
    ASSERT_EQ(intervals.size(), 2u);
    EXPECT_GE(intervals[0], 0);
    EXPECT_GT(intervals[1], intervals[0]) << "copying a GiB takes longer than nothing";
  }
}

TEST_F(GpuBackend, SaysWhatItCannotRun) {
  const auto reason = [&](int64_t head_dim, int64_t group, int64_t page_size, int64_t window) {
    return cuda_->unsupported(DType::float16, head_dim, group, page_size, window);
  };
  for (const int64_t head_dim : {64, 80, 96, 128}) EXPECT_EQ(reason(head_dim, 16, 8, 16), "");
  EXPECT_EQ(reason(64, 1, 128, 1), "");
  EXPECT_NE(reason(72, 1, 16, 1).find("head_dim 72"), std::string::npos);
  EXPECT_NE(reason(64, 17, 16, 1).find("1 to 16"), std::string::npos);
  EXPECT_NE(reason(64, 1, 7, 1).find("page size 7"), std::string::npos);
  EXPECT_NE(reason(64, 1, 129, 1).find("8 to 128"), std::string::npos);
  EXPECT_NE(reason(64, 1, 16, 17).find("window 17"), std::string::npos);
}

TEST_F(GpuBackend, NamesItsDevice) {
  EXPECT_EQ(cuda_->device_name().rfind("cuda:0 ", 0), 0u) << cuda_->device_name();
  EXPECT_EQ(static_cast<int>(cuda_device_names().size()), cuda_device_count());
  EXPECT_NE(cuda_->driver(), "");
}

// Not a GpuTest: the refusal is the same where there is no GPU at all.
TEST(CudaDevices, AbsentDeviceIsRefused) {
  try {
    make_cuda_backend(99);
    FAIL() << "there is no device 99";
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("cuda:99"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hindsight::test
