#include "runtime/page_allocator.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "base/error.h"

namespace weft::runtime {
namespace {

TEST(PageAllocatorTest, PromisesNoMoreThanThereIs) {
  PageAllocator pages(4);
  EXPECT_TRUE(pages.reserve(3));
  EXPECT_FALSE(pages.reserve(2));
  EXPECT_TRUE(pages.reserve(1));
  EXPECT_EQ(pages.available(), 0);
  pages.cancel(2);
  EXPECT_EQ(pages.available(), 2);
  EXPECT_EQ(pages.used(), 0);
}

TEST(PageAllocatorTest, RefusesAPageThatWasNotPromised) {
  PageAllocator pages(2);
  EXPECT_THROW(static_cast<void>(pages.take()), Error);
}

TEST(PageAllocatorTest, RefusesToReleaseAPageTwice) {
  PageAllocator pages(2);
  ASSERT_TRUE(pages.reserve(1));
  const int32_t page = pages.take();
  pages.release(page);
  EXPECT_THROW(pages.release(page), Error);
}

TEST(PageAllocatorTest, NeverHandsOutATakenPage) {
  std::mt19937 rng(7);
  PageAllocator pages(13);
  std::set<int32_t> taken;
  for (int i = 0; i < 10000; ++i) {
    if (rng() % 2 == 0) {
      if (!pages.reserve(1)) {
        EXPECT_EQ(taken.size(), 13U);
        continue;
      }
      EXPECT_TRUE(taken.insert(pages.take()).second);
    } else if (!taken.empty()) {
      const auto it = std::next(taken.begin(), static_cast<int64_t>(rng() % taken.size()));
      pages.release(*it);
      taken.erase(it);
    }
    ASSERT_EQ(pages.used(), static_cast<int64_t>(taken.size()));
  }
}

}  // namespace
}  // namespace weft::runtime
