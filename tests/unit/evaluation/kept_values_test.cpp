#include "evaluation/kept_values.h"

#include <gtest/gtest.h>

#include "evaluation/eval_memory.h"

namespace hindsight::test {
namespace {

struct Thing {
  HeldBytes held;
};
HeldBytes held_by(const Thing& thing) { return thing.held; }

/// How often a value is made when it is asked for twice.
int64_t times_made(KeptValues<int, Thing>& values, int key, const HeldBytes& held) {
  int64_t made = 0;
  for (int i = 0; i < 2; ++i)
    values.get(key, [&] {
      ++made;
      return Thing{held};
    });
  return made;
}

TEST(KeptValues, AreKeptWhileHostAndDeviceHaveRoom) {
  KeptValues<int, Thing> values({100, 10});
  EXPECT_EQ(times_made(values, 0, {40, 8}), 1);
  EXPECT_EQ(times_made(values, 1, {10, 3}), 2);  // the device is full
  EXPECT_EQ(times_made(values, 2, {61, 0}), 2);  // the host would be
  EXPECT_EQ(times_made(values, 3, {60, 2}), 1);
  EXPECT_EQ(times_made(values, 4, {0, 0}), 1);
}

TEST(KeptValues, LeaveADeviceWhatComputingTakes) {
  EXPECT_EQ(kept_values_limit({100, 0}, 30).host, 50);
  EXPECT_EQ(kept_values_limit({100, 80}, 30).device, 25);
  EXPECT_EQ(kept_values_limit({100, 80}, 90).device, 0);
}

TEST(KeptValues, TakeNoMoreThanAllThereAre) {
  const auto device = [](int64_t all, int64_t limit, int64_t made_again) {
    return most_held({0, all}, {0, limit}, {0, made_again}).device;
  };
  EXPECT_EQ(device(70, 64, 70), 70);  // one group, which does not fit into what may be kept
  EXPECT_EQ(device(200, 64, 50), 114);
  EXPECT_EQ(device(40, 64, 0), 40);  // all are kept
  EXPECT_EQ(most_held({90, 0}, {30, 0}, {20, 0}).host, 50);
}

}  // namespace
}  // namespace hindsight::test
