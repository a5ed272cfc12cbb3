#include "plan/padding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "plan/graph_buckets.h"
#include "random_plan.h"

namespace weft::plan {
namespace {

using ::testing::ElementsAre;
using Counts = std::vector<int64_t>;

TEST(DpPaddingTest, EvenDecodeBatchesArePaddedToTheLargest) {
  const DpPadding p = dp_padding(Counts{5, 8}, 2, 2, false);
  EXPECT_EQ(p.mode, PaddingMode::kMaxLen);
  EXPECT_THAT(p.aligned, ElementsAre(6, 8));
  EXPECT_THAT(p.padded, ElementsAre(8, 8));
  EXPECT_THAT(p.start, ElementsAre(0, 8));
  EXPECT_EQ(p.buffer_len, 16);
}

TEST(DpPaddingTest, ExtendAndUnevenDecodeKeepEachRanksRows) {
  EXPECT_EQ(dp_padding(Counts{5, 8}, 1, 2, true).mode, PaddingMode::kSumLen);
  const DpPadding p = dp_padding(Counts{100, 1, 0, 3}, 1, 4, false);
  EXPECT_EQ(p.mode, PaddingMode::kSumLen);
  EXPECT_THAT(p.padded, ElementsAre(100, 1, 0, 3));
  EXPECT_THAT(p.start, ElementsAre(0, 100, 101, 101));
  EXPECT_EQ(p.buffer_len, 104);
}

TEST(DpPaddingTest, OneDpRankExtendingIsMaxLen) {
  EXPECT_EQ(dp_padding(Counts{5}, 4, 1, true).mode, PaddingMode::kMaxLen);
}

TEST(DpPaddingTest, AWrongNumberOfCountsIsRefused) {
  EXPECT_THROW((void)dp_padding(Counts{1, 2, 3}, 1, 4, false), Error);
  EXPECT_THROW((void)dp_padding(Counts{}, 1, 4, false), Error);
  EXPECT_THROW((void)dp_padding(Counts{-1}, 1, 1, false), Error);
  EXPECT_THROW((void)dp_padding(Counts{1}, 0, 1, false), Error);
}

TEST(DpPaddingPropertyTest, SlotsDoNotOverlapAndMaxLenAtMostDoublesTheRows) {
  RandomPlan random(3);
  for (int round = 0; round < 5000; ++round) {
    const int attn_tp_size = 1 << random.between(0, 3);
    const auto attn_dp_size = static_cast<int>(random.between(1, 8));
    Counts counts;
    for (int d = 0; d < attn_dp_size; ++d) counts.push_back(random.chance(0.3) ? 0 : random.between(1, 200));
    const DpPadding p = dp_padding(counts, attn_tp_size, attn_dp_size, random.chance(0.5));
    int64_t end = 0, sum = 0;
    for (size_t d = 0; d < counts.size(); ++d) {
      EXPECT_EQ(p.start[d], end);
      EXPECT_GE(p.padded[d], counts[d]);
      EXPECT_EQ(p.padded[d] % attn_tp_size, 0);
      EXPECT_LT(p.aligned[d], counts[d] + attn_tp_size);
      end += p.padded[d];
      sum += p.aligned[d];
    }
    EXPECT_EQ(p.buffer_len, end);
    EXPECT_LE(p.buffer_len, 2 * sum);
  }
}

TEST(CaptureSizesTest, ListsAscendAndEndAtTheLargestBatch) {
  for (int64_t max_bs = 1; max_bs <= 700; ++max_bs) {
    for (const auto& sizes :
         {capture_batch_sizes(max_bs, false, false), capture_batch_sizes(max_bs, true, false),
          capture_batch_sizes(max_bs, false, true), cpu_capture_batch_sizes(max_bs)}) {
      EXPECT_EQ(sizes.front(), 1);
      EXPECT_EQ(sizes.back(), max_bs);
      EXPECT_TRUE(std::is_sorted(sizes.begin(), sizes.end(), std::less_equal<>())) << "ascending, no repeats";
    }
  }
  EXPECT_EQ(capture_batch_sizes(256, false, false).size(), 36U);
  EXPECT_EQ(capture_batch_sizes(512, false, false).size(), 52U);
  EXPECT_EQ(capture_batch_sizes(256, true, false).size(), 51U);
  EXPECT_EQ(capture_batch_sizes(512, true, false).size(), 67U);
  EXPECT_THAT(cpu_capture_batch_sizes(19),
              ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19));
  EXPECT_THROW((void)capture_batch_sizes(0, false, false), Error);
}

TEST(CaptureFilterTest, OverlapAndGatheringKeepMultiples) {
  const Counts sizes{1, 2, 4, 6, 8, 12, 16};
  EXPECT_THAT(
      filter_capture_sizes(
          sizes, {.pool_size = 10, .two_batch_overlap = true, .gathered_buffer = true, .attn_tp_size = 2}),
      ElementsAre(4, 8, 12));
  EXPECT_THAT(filter_capture_sizes(sizes, {.pool_size = 5}), ElementsAre(1, 2, 4, 5));
}

TEST(CaptureFilterTest, NothingLeftSaysWhichRule) {
  try {
    (void)filter_capture_sizes(Counts{1}, {.pool_size = 1, .two_batch_overlap = true});
    FAIL() << "one request cannot fill two micro-batches";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("a multiple of 2 rows (two_batch_overlap=true"));
  }
}

TEST(BucketTest, IsTheSmallestThatHoldsTheSize) {
  const Counts buckets{1, 2, 4, 8};
  EXPECT_EQ(bucket_of(buckets, 0), 1);
  EXPECT_EQ(bucket_of(buckets, 3), 4);
  EXPECT_EQ(bucket_of(buckets, 8), 8);
  EXPECT_EQ(bucket_of(buckets, 9), std::nullopt);
  EXPECT_EQ(bucket_of({}, 0), std::nullopt);
}

}  // namespace
}  // namespace weft::plan
