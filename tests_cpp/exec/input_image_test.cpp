#include "exec/input_image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace weft::exec {
namespace {

/// What the device would hold.
class Mirror {
 public:
  explicit Mirror(int64_t num_bytes)
      : image(num_bytes),
        device(static_cast<size_t>(num_bytes) / 4, 0),
        blocks_(device.size(), -7),
        indices_(device.size() / 4, -7) {}

  void begin() { image.begin(blocks_.data(), indices_.data()); }
  void apply() {
    for (int64_t i = 0; i < image.num_changed(); ++i) {
      std::copy_n(blocks_.data() + i * 4, 4, device.data() + int64_t{indices_[static_cast<size_t>(i)]} * 4);
    }
  }

  InputImage image;
  std::vector<int32_t> device;

 private:
  std::vector<int32_t> blocks_, indices_;
};

TEST(InputImageTest, ReportsTheBlocksThatChangeAndOnlyThose) {
  Mirror mirror(64);
  mirror.begin();
  mirror.image.put(16, std::vector<int32_t>{1, 2, 3, 4, 5});
  mirror.apply();
  EXPECT_EQ(mirror.image.num_changed(), 2);
  EXPECT_EQ(mirror.device, (std::vector<int32_t>{0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0}));
  mirror.begin();
  mirror.image.put(16, std::vector<int32_t>{1, 2, 3, 4, 6});
  mirror.apply();
  EXPECT_EQ(mirror.image.num_changed(), 1);
  EXPECT_EQ(mirror.device[8], 6);
}

TEST(InputImageTest, WhatIsNotWrittenKeepsItsValue) {
  Mirror mirror(32);
  mirror.begin();
  mirror.image.put(0, 8, [](int64_t i) { return static_cast<int32_t>(i + 1); });
  mirror.apply();
  mirror.begin();
  mirror.image.put(0, std::vector<int32_t>{9, 9, 9, 9, 9});
  mirror.apply();
  EXPECT_EQ(mirror.device, (std::vector<int32_t>{9, 9, 9, 9, 9, 6, 7, 8}));
}

TEST(InputImageTest, TheDeviceHoldsWhatAnySeriesOfStepsWrote) {
  std::mt19937 random(5);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  Mirror mirror(16 * 600);
  std::vector<int32_t> expected(2400, 0);
  for (int step = 0; step < 200; ++step) {
    mirror.begin();
    // Arrays of a step do not share blocks: the first half holds long ones, the second short ones.
    const auto write = [&](int64_t first_block, int64_t max_count) {
      const int64_t count = below(max_count + 1);
      std::vector<int32_t> values(expected.begin() + first_block * 4,
                                  expected.begin() + first_block * 4 + count);
      for (int64_t change = below(4); change > 0 && count > 0; --change)
        values[static_cast<size_t>(below(count))] = static_cast<int32_t>(random());
      std::copy(values.begin(), values.end(), expected.begin() + first_block * 4);
      if (step % 2 == 0) {
        mirror.image.put(first_block * 16, values);
      } else {
        mirror.image.put(first_block * 16, count, [&](int64_t i) { return values[static_cast<size_t>(i)]; });
      }
    };
    write(below(10), 1100);
    write(300 + below(10), 9);
    mirror.apply();
    ASSERT_EQ(mirror.device, expected) << "step " << step;
  }
}

}  // namespace
}  // namespace weft::exec
