#pragma once
// Base of the tests that need a GPU. Without one they are skipped, visibly; with HINDSIGHT_REQUIRE_GPU=1 they
// fail.

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "backend/backend.h"

namespace hindsight::test {

template <class Base = ::testing::Test>
class GpuTest : public Base {
 protected:
  void SetUp() override {
    if (cuda_device_count() > 0) {
      cuda_ = make_cuda_backend(0);
      return;
    }
    const char* required = std::getenv("HINDSIGHT_REQUIRE_GPU");
    const char* reason = cuda_built_in() ? "no CUDA device can be used here" : "CUDA is not built in";
    if (required && std::string_view(required) == "1")
      FAIL() << reason << ", and HINDSIGHT_REQUIRE_GPU=1 asks for one";
    GTEST_SKIP() << reason;
  }

  /// A decode step in one launch was refused: right below compute capability 9.0, a fault on Hopper GPUs. The
  /// test returns after it.
  void one_launch_refused() const {
    const std::string name = cuda_->device_name();
    for (const char* hopper : {"H100", "H200", "H20", "H800", "GH200"})
      if (name.find(hopper) != std::string::npos) FAIL() << name << " must take the step in one launch";
    GTEST_SKIP() << "this GPU has no clusters of blocks (compute capability 9.0)";
  }

  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> oracle_ = make_cpu_oracle();
};

}  // namespace hindsight::test
