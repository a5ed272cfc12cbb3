#include "exec/stage_times.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace weft::exec {
namespace {

using Groups = std::vector<StageGroup>;

double us_of(const StageTimes& times, StageGroup group) { return times.us[static_cast<size_t>(group)]; }

TEST(StageTimesTest, AGroupLastsFromItsStampToTheNext) {
  StageTimes times;
  const Groups groups = {StageGroup::kEmbedding, StageGroup::kAttention, StageGroup::kFeedForward,
                         StageGroup::kAttention, StageGroup::kLogits};
  const uint64_t stamps[] = {1000, 3000, 10000, 14000, 15000};
  times.add(groups, stamps, 19000, false);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kEmbedding), 2.0);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kAttention), 7.0 + 1.0);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kFeedForward), 4.0);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kLogits), 4.0);
  EXPECT_EQ(times.num_between, 0) << "there was no step before";
}

TEST(StageTimesTest, TimeBetweenStepsCountsOnlyIfTheNextWasThereInTime) {
  StageTimes times;
  const Groups groups = {StageGroup::kEmbedding, StageGroup::kLogits};
  const uint64_t first[] = {1000, 2000}, second[] = {9000, 10000}, third[] = {15000, 16000};
  times.add(groups, first, 4000, true);
  times.add(groups, second, 11000, false);
  times.add(groups, third, 17000, true);
  EXPECT_EQ(times.num_between, 1);
  EXPECT_DOUBLE_EQ(times.between_us, 4.0);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kEmbedding), 3.0);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kLogits), 2.0 + 1.0 + 1.0);
}

TEST(StageTimesTest, AStampThatNoKernelWroteCountsForTheGroupBefore) {
  StageTimes times;
  const Groups groups = {StageGroup::kEmbedding, StageGroup::kAttention, StageGroup::kLogits};
  const uint64_t first[] = {1000, 2000, 3000};
  times.add(groups, first, 4000, false);
  const uint64_t stale[] = {5000, 2000, 8000};  // attention's is left from the first step
  times.add(groups, stale, 9000, true);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kEmbedding), 1.0 + 3.0);
  EXPECT_DOUBLE_EQ(us_of(times, StageGroup::kAttention), 1.0);
  EXPECT_DOUBLE_EQ(std::accumulate(times.us.begin(), times.us.end(), 0.0) + times.between_us, 8.0);
}

TEST(StageTimesTest, NothingRunsOnANullDevice) {
  StageTimes times;
  const uint64_t zeros[] = {0, 0};
  times.add({StageGroup::kEmbedding, StageGroup::kLogits}, zeros, 0, true);
  times.add({}, zeros, 0, true);
  EXPECT_EQ(std::accumulate(times.us.begin(), times.us.end(), 0.0), 0.0);
  EXPECT_EQ(times.num_between, 0);
}

}  // namespace
}  // namespace weft::exec
