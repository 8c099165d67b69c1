#pragma once
// Backends by name, for tests that are parametrised with them.

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "backend/backend.h"

namespace hindsight::test {

/// Makes "cpu" or "cuda". Without a GPU the latter skips the test, visibly, and leaves `backend` empty; with
/// HINDSIGHT_REQUIRE_GPU it fails.
inline void make_named_backend(const std::string& name, std::unique_ptr<Backend>& backend) {
  if (name == "cuda" && cuda_device_count() == 0) {
    ASSERT_EQ(std::getenv("HINDSIGHT_REQUIRE_GPU"), nullptr) << "a GPU was asked for and there is none";
    GTEST_SKIP() << "no CUDA device";
  }
  backend = name == "cuda" ? make_cuda_backend(0) : make_cpu_backend();
}

}  // namespace hindsight::test
