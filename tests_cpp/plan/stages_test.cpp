#include "plan/stages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "random_plan.h"

namespace weft::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using enum LayerOp;

std::vector<LayerLayout> layers(const std::vector<bool>& pattern) {
  return layer_layouts(pattern, ParallelConfig{});
}

std::vector<LayerOp> ops(const Stage& stage) {
  std::vector<LayerOp> result;
  for (const StageOp& op : stage) result.push_back(op.op);
  return result;
}

TEST(StageOrderTest, RunsTheFirstAheadByDelta) {
  EXPECT_THAT(stage_order(3, 0),
              ElementsAre(Pair(0, 0), Pair(1, 0), Pair(0, 1), Pair(1, 1), Pair(0, 2), Pair(1, 2)));
  EXPECT_THAT(stage_order(3, 2),
              ElementsAre(Pair(0, 0), Pair(0, 1), Pair(0, 2), Pair(1, 0), Pair(1, 1), Pair(1, 2)));
  EXPECT_THAT(stage_order(2, 5), ElementsAre(Pair(0, 0), Pair(0, 1), Pair(1, 0), Pair(1, 1)));
  EXPECT_TRUE(stage_order(0, 2).empty());
  EXPECT_THROW((void)stage_order(-1, 0), Error);
}

TEST(StageOrderTest, ManyMicroBatchesStartOneAfterTheOther) {
  EXPECT_THAT(stage_order(2, 1, 3),
              ElementsAre(Pair(0, 0), Pair(0, 1), Pair(1, 0), Pair(1, 1), Pair(2, 0), Pair(2, 1)));
  EXPECT_THAT(stage_order(2, 0, 3),
              ElementsAre(Pair(0, 0), Pair(1, 0), Pair(2, 0), Pair(0, 1), Pair(1, 1), Pair(2, 1)));
  EXPECT_THAT(stage_order(2, 2, 1), ElementsAre(Pair(0, 0), Pair(0, 1)));
  EXPECT_THROW((void)stage_order(2, 1, 0), Error);
  EXPECT_THROW((void)stage_order(2, 1, 17), Error);
}

TEST(StageOrderPropertyTest, EachMicroBatchRunsEveryStageOnceAndDeltaBehindTheOneBefore) {
  for (int n = 0; n < 20; ++n) {
    for (int delta = 0; delta < 6; ++delta) {
      for (int batches = 1; batches <= 5; ++batches) {
        std::vector<int> next(static_cast<size_t>(batches), 0);
        for (const auto& [micro_batch, stage] : stage_order(n, delta, batches)) {
          const auto m = static_cast<size_t>(micro_batch);
          EXPECT_EQ(stage, next[m]++);
          if (m == 0) continue;
          EXPECT_LE(next[m], next[m - 1]) << "none overtakes the one before";
          EXPECT_GE(next[m - 1], std::min(n, next[m] + delta)) << "which is delta ahead";
        }
        for (const int stages : next) EXPECT_EQ(stages, n);
      }
    }
  }
}

TEST(StagePlanTest, DispatchedExtendOverlapsDispatchAndCombine) {
  const StagePlan plan =
      make_stage_plan(layers({true, true}), ForwardMode::kExtend, DispatchMode::kNormal, true);
  EXPECT_EQ(plan.delta_stages, 0);
  ASSERT_EQ(plan.stages.size(), 5U);  // 2 L + 1
  EXPECT_THAT(ops(plan.stages[0]), ElementsAre(kPrepareAttn, kAttnPrepare, kAttnCore, kPrepareMlp,
                                               kPrepareMlpWait, kGate, kSelectExperts, kDispatchA));
  EXPECT_THAT(ops(plan.stages[1]), ElementsAre(kDispatchB, kExperts, kCombineA));
  EXPECT_THAT(
      ops(plan.stages[2]),
      ElementsAre(kSharedExperts, kCombineB, kOutput, kPostprocess, kPostprocessWait, kPrepareAttn,
                  kAttnPrepare, kAttnCore, kPrepareMlp, kPrepareMlpWait, kGate, kSelectExperts, kDispatchA));
}

TEST(StagePlanTest, DispatchedDecodeRunsTwoStagesAhead) {
  const StagePlan shared =
      make_stage_plan(layers({true, true}), ForwardMode::kDecode, DispatchMode::kLowLatency, true);
  EXPECT_EQ(shared.delta_stages, 2);
  EXPECT_EQ(shared.stages.size(), 11U);  // 5 L + 1
  EXPECT_THAT(ops(shared.stages[2]), ElementsAre(kDispatchA, kSharedExperts));
  const StagePlan plain =
      make_stage_plan(layers({true, true}), ForwardMode::kDecode, DispatchMode::kLowLatency, false);
  EXPECT_EQ(plain.stages.size(), 10U);  // 5 L
  EXPECT_THAT(ops(plain.stages[4]), ElementsAre(kCombineB, kOutput, kPostprocess, kPostprocessWait));
}

TEST(StagePlanTest, GatheredAndDenseLayersYieldAtTheirBoundaries) {
  const StagePlan plan =
      make_stage_plan(layers({false, true}), ForwardMode::kExtend, DispatchMode::kNone, true);
  ASSERT_EQ(plan.stages.size(), 5U);
  EXPECT_THAT(ops(plan.stages[1]), ElementsAre(kPrepareMlpWait, kMlp, kPostprocess));
  EXPECT_THAT(ops(plan.stages[3]), ElementsAre(kPrepareMlpWait, kGate, kSelectExperts, kExperts,
                                               kSharedExperts, kOutput, kPostprocess));
  EXPECT_THAT(ops(plan.stages[4]), ElementsAre(kPostprocessWait));
  EXPECT_EQ(make_stage_plan(layers({false}), ForwardMode::kDecode, DispatchMode::kNone, false).stages.size(),
            4U);
}

TEST(StagePlanTest, AScheduleIsExtendOrDecode) {
  EXPECT_THROW((void)make_stage_plan(layers({true}), ForwardMode::kMixed, DispatchMode::kNone, false), Error);
  EXPECT_TRUE(make_stage_plan({}, ForwardMode::kDecode, DispatchMode::kNone, false).stages.empty());
}

TEST(StagePlanPropertyTest, BothSchedulesRunTheSameOpsOfALayerOnceAndNoStageIsEmpty) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    RandomPlan random(seed);
    const ModelShape model = random.model();
    const auto layouts = layers(model.sparse_pattern);
    for (const DispatchMode dispatch : {DispatchMode::kNone, DispatchMode::kNormal}) {
      std::map<int, std::set<LayerOp>> of_schedule[2];
      for (const bool decode : {false, true}) {
        const ForwardMode schedule = decode ? ForwardMode::kDecode : ForwardMode::kExtend;
        int last_layer = 0;
        for (const Stage& stage :
             make_stage_plan(layouts, schedule, dispatch, model.has_shared_experts).stages) {
          EXPECT_FALSE(stage.empty());
          for (const StageOp& op : stage) {
            EXPECT_GE(op.layer, last_layer);
            last_layer = op.layer;
            EXPECT_TRUE(of_schedule[decode ? 1 : 0][op.layer].insert(op.op).second) << layer_op_name(op.op);
          }
        }
      }
      EXPECT_EQ(of_schedule[0], of_schedule[1]);
      EXPECT_EQ(of_schedule[0].size(), layouts.size());
    }
  }
}

}  // namespace
}  // namespace weft::plan
