#include "plan/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "random_plan.h"

namespace weft::plan {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RankState idle() { return {}; }

RankState decode(int64_t num_seqs) {
  RankState s;
  s.mode = ForwardMode::kDecode;
  s.num_tokens = s.num_seqs = s.num_logit_rows = num_seqs;
  s.split_tokens[0] = num_seqs / 2;
  s.split_tokens[1] = num_seqs - num_seqs / 2;
  return s;
}

RankState extend(int64_t num_tokens, ForwardMode mode = ForwardMode::kExtend) {
  RankState s = decode(num_tokens);
  s.mode = mode;
  s.num_seqs = s.num_logit_rows = 1;
  return s;
}

RankState verify(int64_t num_seqs, int64_t width) {
  RankState s = decode(num_seqs * width);
  s.mode = ForwardMode::kTargetVerify;
  s.num_seqs = num_seqs;
  s.tokens_per_req = width;
  s.split_tokens[0] = num_seqs / 2 * width;
  s.split_tokens[1] = s.num_tokens - s.split_tokens[0];
  return s;
}

// tp 2, dp 2: one rank an attention group; everything is gathered.
PlanConfig gathered() {
  PlanConfig c;
  c.parallel.tp_size = c.parallel.dp_size = 2;
  c.parallel.enable_dp_attention = true;
  c.normal_chunk_rows = c.low_latency_rows = c.logit_chunk_rows = 64;
  return c;
}

// The same ranks with expert dispatch, dense layers of one rank and the LM head in the group: nothing is
// gathered.
PlanConfig dispatched() {
  PlanConfig c = gathered();
  c.parallel.a2a_backend = A2aBackend::kDeepEp;
  c.parallel.ep_size = 2;
  c.parallel.moe_dense_tp_size = 1;
  c.parallel.enable_dp_lm_head = true;
  return c;
}

PlanConfig with_graphs(PlanConfig c) {
  c.graph_buckets = {2, 4, 8, 16};
  return c;
}

PlanConfig with_tbo(PlanConfig c, TboPolicy policy = TboPolicy::kAny) {
  c.parallel.enable_two_batch_overlap = true;
  c.tbo_policy = policy;
  return c;
}

std::string error_of(const std::vector<RankState>& states, const PlanConfig& config) {
  try {
    (void)make_step_plan(states, config);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(StepPlanTest, NoRowsMeansNothingRuns) {
  RankState prebuilt;
  prebuilt.mode = ForwardMode::kPrebuilt;
  const StepPlan plan = make_step_plan({idle(), prebuilt}, with_tbo(with_graphs(gathered())));
  EXPECT_FALSE(plan.run);
  EXPECT_FALSE(plan.tbo);
  EXPECT_EQ(plan.no_tbo_reason, "no rank has rows");
  EXPECT_THAT(plan.graph_miss, Each(GraphMiss::kEmpty));
  EXPECT_THAT(plan.micro_batches.at(0).rows, ElementsAre(0, 0));
}

TEST(StepPlanTest, AnIdleRankTakesPartWithZeroRows) {
  const StepPlan plan = make_step_plan({extend(10), idle()}, gathered());
  EXPECT_TRUE(plan.run);
  EXPECT_EQ(plan.schedule, ForwardMode::kExtend);
  EXPECT_THAT(plan.modes, ElementsAre(ForwardMode::kExtend, ForwardMode::kIdle));
  const MicroBatchPlan& batch = plan.micro_batches.at(0);
  EXPECT_EQ(batch.padding, PaddingMode::kSumLen);
  EXPECT_THAT(batch.rows, ElementsAre(10, 0));
  EXPECT_EQ(batch.gathered_rows, 10);
}

TEST(StepPlanTest, OneExtendingRankMovesAllToItsScheduleAndToNormalDispatch) {
  const StepPlan plan = make_step_plan({decode(3), extend(10, ForwardMode::kMixed)}, dispatched());
  EXPECT_EQ(plan.schedule, ForwardMode::kExtend);
  EXPECT_EQ(plan.dispatch, DispatchMode::kNormal);
  EXPECT_EQ(make_step_plan({decode(3), decode(1)}, dispatched()).dispatch, DispatchMode::kLowLatency);
}

TEST(StepPlanTest, RowsAlignToTheAttentionGroupWhereABoundaryShardsThem) {
  PlanConfig c = gathered();
  c.parallel.tp_size = 4;
  EXPECT_THAT(make_step_plan({extend(9), extend(3)}, c).micro_batches[0].rows, ElementsAre(10, 4));
  PlanConfig plain;
  plain.parallel.tp_size = 4;
  EXPECT_EQ(plain.row_alignment(), 1);
  const StepPlan plan = make_step_plan({decode(3)}, plain);
  EXPECT_THAT(plan.micro_batches[0].rows, ElementsAre(3));
  EXPECT_EQ(plan.micro_batches[0].padding, PaddingMode::kNone);
  EXPECT_EQ(plan.micro_batches[0].gathered_rows, 0);
}

TEST(StepPlanTest, LayernormSpIsOfStepsThatPrefillAndAlignsTheirRows) {
  PlanConfig c;
  c.parallel.tp_size = 4;
  c.parallel.enable_layernorm_sp = true;
  for (const ForwardMode mode : {ForwardMode::kExtend, ForwardMode::kMixed}) {
    const StepPlan plan = make_step_plan({extend(5, mode)}, c);
    EXPECT_TRUE(plan.layernorm_sp);
    EXPECT_THAT(plan.micro_batches[0].rows, ElementsAre(8));
  }
  for (const RankState& few : {decode(5), verify(1, 5)}) {
    const StepPlan plan = make_step_plan({few}, c);
    EXPECT_FALSE(plan.layernorm_sp);
    EXPECT_THAT(plan.micro_batches[0].rows, ElementsAre(5));
  }
  EXPECT_FALSE(make_step_plan({idle()}, c).layernorm_sp);
}

TEST(StepPlanTest, NothingGatheredMeansEachRankKeepsItsOwnRows) {
  const MicroBatchPlan batch = make_step_plan({decode(3), decode(7)}, dispatched()).micro_batches.at(0);
  EXPECT_EQ(batch.padding, PaddingMode::kNone);
  EXPECT_THAT(batch.rows, ElementsAre(3, 7));
  EXPECT_THAT(batch.start, ElementsAre(0, 0));
  EXPECT_EQ(batch.gathered_rows, 0);
}

TEST(StepPlanTest, ExpertAndLogitChunksFollowTheLargestRank) {
  PlanConfig c = dispatched();
  c.normal_chunk_rows = 4;
  c.logit_chunk_rows = 3;
  RankState s = extend(9);
  s.num_logit_rows = 7;
  const StepPlan plan = make_step_plan({s, extend(2)}, c);
  EXPECT_EQ(plan.micro_batches[0].expert_chunks, 3);
  EXPECT_EQ(plan.logit_chunks, 3);
  EXPECT_THAT(plan.logit_rows, ElementsAre(7, 1));
}

TEST(StepPlanGraphTest, GatheredRanksReplayOneBucket) {
  const StepPlan plan = make_step_plan({decode(3), idle()}, with_graphs(gathered()));
  EXPECT_THAT(plan.graph_bucket, ElementsAre(4, 4));
  EXPECT_THAT(plan.graph_miss, Each(GraphMiss::kNone));
  EXPECT_THAT(plan.logit_rows, ElementsAre(4, 4));
  const MicroBatchPlan& batch = plan.micro_batches.at(0);
  EXPECT_EQ(batch.padding, PaddingMode::kMaxLen);
  EXPECT_THAT(batch.num_tokens, ElementsAre(3, 0));
  EXPECT_THAT(batch.rows, ElementsAre(4, 4));
  EXPECT_THAT(batch.start, ElementsAre(0, 4));
  EXPECT_EQ(batch.gathered_rows, 8);
  EXPECT_THAT(make_step_plan({decode(17), decode(1)}, with_graphs(gathered())).graph_miss,
              Each(GraphMiss::kTooLarge));
}

TEST(StepPlanGraphTest, UngatheredRanksReplayTheirOwnBuckets) {
  const StepPlan plan = make_step_plan({decode(3), decode(9)}, with_graphs(dispatched()));
  EXPECT_THAT(plan.graph_bucket, ElementsAre(4, 16));
  EXPECT_THAT(plan.micro_batches[0].rows, ElementsAre(4, 16));
  EXPECT_THAT(make_step_plan({decode(3), idle()}, with_graphs(dispatched())).graph_bucket, ElementsAre(4, 2));
}

TEST(StepPlanGraphTest, AnUngatheredMissIsLocalUnlessItNeedsAnotherExpertChunk) {
  const StepPlan plan = make_step_plan({decode(3), decode(40)}, with_graphs(dispatched()));
  EXPECT_THAT(plan.graph_bucket, ElementsAre(4, 0));
  EXPECT_THAT(plan.graph_miss, ElementsAre(GraphMiss::kNone, GraphMiss::kTooLarge));
  EXPECT_THAT(plan.micro_batches[0].rows, ElementsAre(4, 40));
  EXPECT_THAT(plan.logit_rows, ElementsAre(4, 40));
  const StepPlan large = make_step_plan({decode(3), decode(65)}, with_graphs(dispatched()));
  EXPECT_THAT(large.graph_miss, Each(GraphMiss::kTooLarge));
  EXPECT_EQ(large.micro_batches[0].expert_chunks, 2);
}

TEST(StepPlanGraphTest, AnIdleRankDoesNotReplayAlone) {
  EXPECT_THAT(make_step_plan({idle(), decode(40)}, with_graphs(dispatched())).graph_miss,
              Each(GraphMiss::kTooLarge));
}

TEST(StepPlanGraphTest, WithoutPaddingOnlyExactSizesReplay) {
  PlanConfig c = with_graphs(dispatched());
  c.graph_padding = false;
  EXPECT_THAT(make_step_plan({decode(3), decode(8)}, c).graph_bucket, ElementsAre(0, 8));
  EXPECT_THAT(make_step_plan({idle(), decode(8)}, c).graph_bucket, ElementsAre(0, 8));
  c = with_graphs(gathered());
  c.graph_padding = false;
  EXPECT_THAT(make_step_plan({decode(3), decode(8)}, c).graph_bucket, ElementsAre(8, 8));
  EXPECT_THAT(make_step_plan({decode(3), decode(7)}, c).graph_miss, Each(GraphMiss::kTooLarge));
}

TEST(StepPlanGraphTest, EveryMissHasItsReason) {
  EXPECT_THAT(make_step_plan({decode(1), decode(1)}, gathered()).graph_miss, Each(GraphMiss::kDisabled));
  EXPECT_THAT(make_step_plan({decode(1), extend(2)}, with_graphs(gathered())).graph_miss,
              Each(GraphMiss::kExtend));
  RankState needs_eager = decode(1);
  needs_eager.can_graph = 0;
  EXPECT_THAT(make_step_plan({decode(1), needs_eager}, with_graphs(gathered())).graph_miss,
              Each(GraphMiss::kRankCannot));
  PlanConfig normal = with_graphs(dispatched());
  normal.parallel.deepep_mode = DeepEpMode::kNormal;
  EXPECT_THAT(make_step_plan({decode(1), decode(1)}, normal).graph_miss, Each(GraphMiss::kNormalDispatch));
  EXPECT_EQ(graph_miss_name(GraphMiss::kNormalDispatch), "normal_dispatch");
}

TEST(StepPlanTboTest, UnlikeModesOverlapUnderPolicyAnyAndNotUnderSglang) {
  const std::vector<RankState> states{extend(10), decode(5)};
  const StepPlan any = make_step_plan(states, with_tbo(dispatched()));
  EXPECT_TRUE(any.tbo);
  EXPECT_EQ(any.no_tbo_reason, "");
  EXPECT_THAT(any.micro_batches.at(0).num_tokens, ElementsAre(5, 2));
  EXPECT_THAT(any.micro_batches.at(1).num_tokens, ElementsAre(5, 3));
  const StepPlan sglang = make_step_plan(states, with_tbo(dispatched(), TboPolicy::kSglang));
  EXPECT_FALSE(sglang.tbo);
  EXPECT_EQ(sglang.no_tbo_reason, "policy sglang: ranks are in unlike modes");
  EXPECT_TRUE(make_step_plan({extend(10), idle()}, with_tbo(dispatched(), TboPolicy::kSglang)).tbo);
}

TEST(StepPlanTboTest, ALowLatencyPrefillOverlapsUnderPolicyAnyAndNotUnderSglang) {
  PlanConfig config = with_tbo(dispatched());
  config.parallel.deepep_mode = DeepEpMode::kLowLatency;
  EXPECT_TRUE(make_step_plan({extend(10), extend(4)}, config).tbo);
  config.tbo_policy = TboPolicy::kSglang;
  const StepPlan plan = make_step_plan({extend(10), extend(4)}, config);
  EXPECT_FALSE(plan.tbo);
  EXPECT_EQ(plan.no_tbo_reason, "policy sglang: a prefill under low-latency dispatch");
  EXPECT_TRUE(make_step_plan({decode(10), decode(4)}, config).tbo);
}

TEST(StepPlanTboTest, ARankThatCannotSplitRunsInTheFirstMicroBatch) {
  RankState whole = extend(7);
  whole.can_split = 0;
  const StepPlan plan = make_step_plan({extend(10), whole}, with_tbo(gathered()));
  EXPECT_TRUE(plan.tbo);
  EXPECT_THAT(plan.micro_batches.at(0).rows, ElementsAre(5, 7));
  EXPECT_THAT(plan.micro_batches.at(1).rows, ElementsAre(5, 0));
  EXPECT_EQ(plan.micro_batches.at(1).gathered_rows, 5);
  EXPECT_EQ(make_step_plan({extend(10), whole}, with_tbo(gathered(), TboPolicy::kSglang)).no_tbo_reason,
            "policy sglang: a rank cannot split its batch");
}

TEST(StepPlanTboTest, OneRowEachIsNothingToOverlap) {
  const StepPlan plan = make_step_plan({decode(1), decode(1)}, with_tbo(gathered()));
  EXPECT_FALSE(plan.tbo);
  EXPECT_EQ(plan.no_tbo_reason, "no rank has rows in both micro-batches");
  EXPECT_EQ(plan.micro_batches.size(), 1U);
}

TEST(StepPlanTboTest, EveryGraphIsAnOverlappedGraph) {
  const StepPlan plan = make_step_plan({decode(5), decode(1)}, with_tbo(with_graphs(gathered())));
  EXPECT_TRUE(plan.tbo);
  EXPECT_THAT(plan.graph_bucket, ElementsAre(8, 8));
  EXPECT_THAT(plan.micro_batches.at(0).rows, ElementsAre(4, 4));
  EXPECT_THAT(plan.micro_batches.at(0).num_tokens, ElementsAre(4, 1));
  EXPECT_THAT(plan.micro_batches.at(1).num_tokens, ElementsAre(1, 0));
}

TEST(StepPlanTboTest, AnEagerRankJoinsTheOverlapOfThoseThatReplay) {
  RankState large = decode(40);
  large.can_split = 0;
  const StepPlan plan = make_step_plan({decode(1), large}, with_tbo(with_graphs(dispatched())));
  EXPECT_TRUE(plan.tbo);
  EXPECT_THAT(plan.graph_bucket, ElementsAre(2, 0));
  EXPECT_THAT(plan.micro_batches.at(0).rows, ElementsAre(1, 40));
  EXPECT_THAT(plan.micro_batches.at(1).rows, ElementsAre(1, 0));
}

// Costs by which overlap pays above about 10 rows.
TboCostTable costs() { return {{1, 101}, {20, 120}, {1, 101}, {1, 101}}; }

TEST(StepPlanGateTest, AStepIsOverlappedWhereTheCostTableSaysThatItPays) {
  PlanConfig c = with_tbo(dispatched());
  c.tbo_cost_table = costs();
  const StepPlan small = make_step_plan({decode(4), extend(4)}, c);
  EXPECT_FALSE(small.tbo);
  EXPECT_EQ(small.no_tbo_reason, "tbo gate: by the cost table two micro-batches are not faster");
  EXPECT_THAT(small.micro_batches.at(0).num_tokens, ElementsAre(4, 4));
  EXPECT_TRUE(make_step_plan({decode(4), extend(200)}, c).tbo) << "the busiest rank decides for all";
  c.tbo_gate = TboGate::kAlways;
  EXPECT_TRUE(make_step_plan({decode(4), extend(4)}, c).tbo);
  c.tbo_gate = TboGate::kAuto;
  c.tbo_cost_table = {};
  EXPECT_TRUE(make_step_plan({decode(4), extend(4)}, c).tbo) << "always without a table";
}

TEST(StepPlanGateTest, UnevenHalvesArePricedAsTheyAre) {
  // Ranks whose first halves are empty: both together are no shorter than the whole.
  PlanConfig c = with_tbo(dispatched());
  c.tbo_cost_table = {{1, 101}, {1, 101}, {1, 101}, {1, 101}};
  RankState late = extend(100);
  late.split_tokens[0] = 1;
  late.split_tokens[1] = 99;
  RankState early = extend(100);
  early.split_tokens[0] = 99;
  early.split_tokens[1] = 1;
  EXPECT_TRUE(make_step_plan({extend(100), extend(100)}, c).tbo);
  EXPECT_FALSE(make_step_plan({late, early}, c).tbo) << "each micro-batch has a rank with 99 rows";
}

TEST(StepPlanGateTest, AGraphHasOneMicroBatchWhereOverlapDoesNotPay) {
  PlanConfig c = with_tbo(with_graphs(gathered()));
  c.tbo_cost_table = costs();
  const StepPlan plan = make_step_plan({decode(5), decode(1)}, c);
  EXPECT_FALSE(plan.tbo);
  EXPECT_THAT(plan.graph_bucket, ElementsAre(8, 8));
  ASSERT_EQ(plan.micro_batches.size(), 1U);
  EXPECT_THAT(plan.micro_batches[0].num_tokens, ElementsAre(5, 1));
  EXPECT_THAT(plan.micro_batches[0].rows, ElementsAre(8, 8));
  c.graph_buckets.push_back(64);
  EXPECT_TRUE(make_step_plan({decode(50), decode(1)}, c).tbo);
}

TEST(StepPlanVerifyTest, RunsBesideDecodeByItsScheduleDispatchAndGraphs) {
  PlanConfig c = with_graphs(dispatched());
  c.tokens_per_req = 4;
  c.graph_buckets = {8, 16, 64};
  const StepPlan plan = make_step_plan({verify(3, 4), verify(1, 4)}, c);
  EXPECT_FALSE(plan.is_extend_in_batch);
  EXPECT_EQ(plan.schedule, ForwardMode::kDecode);
  EXPECT_EQ(plan.dispatch, DispatchMode::kLowLatency);
  EXPECT_THAT(plan.graph_bucket, ElementsAre(16, 8)) << "in rows";
  EXPECT_THAT(make_step_plan({verify(3, 4), idle()}, c).graph_bucket, ElementsAre(16, 8));
  EXPECT_THAT(make_step_plan({verify(3, 4), extend(9)}, c).graph_miss, Each(GraphMiss::kExtend));
}

TEST(StepPlanVerifyTest, AnotherWidthThanTheGraphsRunsEager) {
  PlanConfig c = with_graphs(gathered());
  c.tokens_per_req = 2;
  EXPECT_THAT(make_step_plan({verify(2, 2), verify(1, 4)}, c).graph_miss, Each(GraphMiss::kTokensPerReq));
  EXPECT_THAT(make_step_plan({verify(2, 2), decode(2)}, c).graph_miss, Each(GraphMiss::kTokensPerReq));
  EXPECT_THAT(make_step_plan({verify(2, 2), idle()}, c).graph_bucket, ElementsAre(4, 4));
  EXPECT_EQ(graph_miss_name(GraphMiss::kTokensPerReq), "tokens_per_req");
}

TEST(StepPlanVerifyTest, AnOverlappedGraphCutsBetweenRequests) {
  PlanConfig c = with_tbo(with_graphs(gathered()));
  c.tokens_per_req = 3;
  c.graph_buckets = {6, 12};
  const StepPlan plan = make_step_plan({verify(3, 3), verify(1, 3)}, c);
  EXPECT_TRUE(plan.tbo);
  EXPECT_THAT(plan.micro_batches.at(0).num_tokens, ElementsAre(6, 3));
  EXPECT_THAT(plan.micro_batches.at(1).num_tokens, ElementsAre(3, 0));
  c.graph_buckets = {6, 8};
  EXPECT_THAT(error_of({verify(3, 3), idle()}, c), HasSubstr("graph bucket 8 is no multiple of 6"));
}

TEST(StepPlanVerifyTest, VerifyAndDecodeAreUnlikeModesUnderPolicySglang) {
  EXPECT_TRUE(make_step_plan({verify(4, 2), decode(4)}, with_tbo(gathered())).tbo);
  EXPECT_FALSE(make_step_plan({verify(4, 2), decode(4)}, with_tbo(gathered(), TboPolicy::kSglang)).tbo);
}

TEST(StepPlanErrorTest, DisagreementNamesTheRank) {
  std::vector<RankState> states{decode(1), decode(1)};
  states[1].step_id = 4;
  EXPECT_THAT(error_of(states, gathered()), HasSubstr("DP rank 1 is at step 4, DP rank 0 at step 0"));
  states[1] = decode(1);
  states[1].config_hash = 0xabc;
  EXPECT_THAT(error_of(states, gathered()), HasSubstr("DP rank 1 has configuration 0000000000000abc"));
  states[1] = decode(1);
  states[1].trace_hash = 1;
  EXPECT_THAT(error_of(states, gathered()), HasSubstr("DP rank 1 ran collectives"));
  EXPECT_THAT(error_of({decode(1)}, gathered()), HasSubstr("1 rank states for 2 DP ranks"));
}

TEST(StepPlanErrorTest, AStateThatContradictsItselfIsRefused) {
  const auto refused = [](const std::function<void(RankState&)>& edit) {
    std::vector<RankState> states{decode(4), decode(4)};
    edit(states[1]);
    return error_of(states, with_tbo(gathered()));
  };
  EXPECT_THAT(refused([](RankState& s) { s.mode = ForwardMode::kIdle; }),
              HasSubstr("DP rank 1 is IDLE but has"));
  EXPECT_THAT(refused([](RankState& s) { s.num_tokens = 0; }), HasSubstr("a rank without rows is IDLE"));
  EXPECT_THAT(refused([](RankState& s) { s.num_seqs = 5; }), HasSubstr("num_seqs=5"));
  EXPECT_THAT(refused([](RankState& s) { s.num_seqs = 3; }), HasSubstr("every request must have 1 rows"));
  EXPECT_THAT(refused([](RankState& s) { s.tokens_per_req = 2; }), HasSubstr("tokens_per_req=2"));
  EXPECT_THAT(refused([](RankState& s) {
                s.mode = ForwardMode::kTargetVerify;
                s.tokens_per_req = 0;
              }),
              HasSubstr("tokens_per_req=0"));
  EXPECT_THAT(refused([](RankState& s) { s.num_logit_rows = 5; }), HasSubstr("num_logit_rows=5"));
  EXPECT_THAT(refused([](RankState& s) { s.split_tokens[0] = 3; }), HasSubstr("split_tokens=3,2"));
  EXPECT_THAT(refused([](RankState& s) { s.mode = static_cast<ForwardMode>(9); }),
              HasSubstr("no forward mode"));
}

TEST(PlanConfigTest, BucketsMustFitMicroBatchesAndChunks) {
  const auto refused = [](const PlanConfig& c) { return error_of({decode(1), decode(1)}, c); };
  PlanConfig c = with_tbo(gathered());
  c.graph_buckets = {2, 3};
  EXPECT_THAT(refused(c), HasSubstr("graph bucket 3 is no multiple of 2"));
  c.graph_buckets = {4, 2};
  EXPECT_THAT(refused(c), HasSubstr("graph bucket 2 after 4"));
  c = with_graphs(dispatched());
  c.low_latency_rows = 15;
  EXPECT_THAT(refused(c), HasSubstr("low_latency_rows=15"));
  c = gathered();
  c.tokens_per_req = 0;
  EXPECT_THAT(refused(c), HasSubstr("tokens_per_req=0"));
  c = gathered();
  c.tbo_cost_table = {{2, 1}, {1, 1}, {1, 1}, {1, 1}};
  EXPECT_THAT(refused(c), HasSubstr("cost table: tokens[1]=1"));
  c = gathered();
  c.logit_chunk_rows = 0;
  EXPECT_THAT(refused(c), HasSubstr("logit_chunk_rows=0"));
}

TEST(PlanHashTest, EveryFieldOfTheConfigurationCounts) {
  const PlanConfig base = with_graphs(gathered());
  const std::vector<std::function<void(PlanConfig&)>> edits{
      [](PlanConfig& c) { c.parallel.tp_size = 4; },
      [](PlanConfig& c) { c.parallel.dp_size = 1; },
      [](PlanConfig& c) { c.parallel.enable_dp_attention = false; },
      [](PlanConfig& c) { c.parallel.ep_size = 2; },
      [](PlanConfig& c) { c.parallel.a2a_backend = A2aBackend::kDeepEp; },
      [](PlanConfig& c) { c.parallel.deepep_mode = DeepEpMode::kNormal; },
      [](PlanConfig& c) { c.parallel.moe_dense_tp_size = 1; },
      [](PlanConfig& c) { c.parallel.enable_dp_lm_head = true; },
      [](PlanConfig& c) { c.parallel.enable_two_batch_overlap = true; },
      [](PlanConfig& c) { c.parallel.enable_layernorm_sp = true; },
      [](PlanConfig& c) { c.tbo_policy = TboPolicy::kSglang; },
      [](PlanConfig& c) { c.tbo_gate = TboGate::kAlways; },
      [](PlanConfig& c) { c.tbo_cost_table = costs(); },
      [](PlanConfig& c) {
        c.tbo_cost_table = costs();
        c.tbo_cost_table.dispatch_us[1] += 1e-9;
      },
      [](PlanConfig& c) { ++c.tokens_per_req; },
      [](PlanConfig& c) { c.graph_buckets.pop_back(); },
      [](PlanConfig& c) { c.graph_padding = false; },
      [](PlanConfig& c) { ++c.normal_chunk_rows; },
      [](PlanConfig& c) { ++c.low_latency_rows; },
      [](PlanConfig& c) { ++c.logit_chunk_rows; },
  };
  std::vector<uint64_t> hashes{base.hash()};
  for (const auto& edit : edits) {
    PlanConfig changed = base;
    edit(changed);
    hashes.push_back(changed.hash());
  }
  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(std::adjacent_find(hashes.begin(), hashes.end()), hashes.end());
}

TEST(PlanHashTest, EveryFieldOfThePlanCounts) {
  const StepPlan base = make_step_plan({decode(5), decode(1)}, with_tbo(with_graphs(gathered())));
  const std::vector<std::function<void(StepPlan&)>> edits{
      [](StepPlan& p) { ++p.step_id; },
      [](StepPlan& p) { p.run = false; },
      [](StepPlan& p) { p.is_extend_in_batch = true; },
      [](StepPlan& p) { p.modes[0] = ForwardMode::kIdle; },
      [](StepPlan& p) { p.schedule = ForwardMode::kExtend; },
      [](StepPlan& p) { p.dispatch = DispatchMode::kNormal; },
      [](StepPlan& p) { p.layernorm_sp = true; },
      [](StepPlan& p) { p.tbo = false; },
      [](StepPlan& p) { p.no_tbo_reason = "x"; },
      [](StepPlan& p) { p.micro_batches.pop_back(); },
      [](StepPlan& p) { ++p.micro_batches[1].num_tokens[1]; },
      [](StepPlan& p) { ++p.micro_batches[1].rows[1]; },
      [](StepPlan& p) { p.micro_batches[1].padding = PaddingMode::kSumLen; },
      [](StepPlan& p) { ++p.micro_batches[1].start[1]; },
      [](StepPlan& p) { ++p.micro_batches[1].gathered_rows; },
      [](StepPlan& p) { ++p.micro_batches[1].expert_chunks; },
      [](StepPlan& p) { ++p.graph_bucket[1]; },
      [](StepPlan& p) { p.graph_miss[1] = GraphMiss::kEmpty; },
      [](StepPlan& p) { ++p.logit_rows[1]; },
      [](StepPlan& p) { ++p.logit_chunks; },
  };
  std::vector<uint64_t> hashes{base.hash()};
  for (const auto& edit : edits) {
    StepPlan changed = base;
    edit(changed);
    hashes.push_back(changed.hash());
  }
  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(std::adjacent_find(hashes.begin(), hashes.end()), hashes.end());
}

// What must hold of every plan.
void expect_sound(const StepPlan& plan, const std::vector<RankState>& states, const PlanConfig& config) {
  const size_t num_ranks = states.size();
  const bool prefills = std::any_of(states.begin(), states.end(), [](const RankState& s) {
    return s.mode == ForwardMode::kExtend || s.mode == ForwardMode::kMixed;
  });
  EXPECT_EQ(plan.layernorm_sp, config.parallel.enable_layernorm_sp && prefills);
  const int64_t alignment = plan.layernorm_sp ? config.parallel.attn_tp_size() : config.row_alignment();
  ASSERT_EQ(plan.micro_batches.size(), plan.tbo ? 2U : 1U);
  ASSERT_EQ(plan.graph_bucket.size(), num_ranks);
  for (size_t d = 0; d < num_ranks; ++d) {
    int64_t tokens = 0, rows = 0;
    for (const MicroBatchPlan& batch : plan.micro_batches) {
      EXPECT_LE(batch.num_tokens[d], batch.rows[d]);
      EXPECT_EQ(batch.rows[d] % alignment, 0);
      tokens += batch.num_tokens[d];
      rows += batch.rows[d];
    }
    EXPECT_EQ(tokens, states[d].num_tokens);
    EXPECT_EQ(plan.graph_bucket[d] > 0, plan.graph_miss[d] == GraphMiss::kNone);
    if (plan.graph_bucket[d] > 0) {
      EXPECT_EQ(rows, plan.graph_bucket[d]);
      EXPECT_EQ(plan.logit_rows[d], plan.graph_bucket[d]);
      EXPECT_EQ(plan.micro_batches[0].expert_chunks, 1);
      EXPECT_LE(plan.tbo, config.parallel.enable_two_batch_overlap);
      EXPECT_TRUE(plan.tbo == config.parallel.enable_two_batch_overlap || !config.tbo_cost_table.empty());
      for (const MicroBatchPlan& batch : plan.micro_batches) {
        EXPECT_EQ(batch.num_tokens[d] % config.tokens_per_req, 0) << "a request is not cut";
      }
    } else {
      EXPECT_EQ(plan.logit_rows[d], states[d].num_logit_rows);
    }
    EXPECT_LE(plan.logit_rows[d], plan.logit_chunks * config.logit_chunk_rows);
  }
  for (const MicroBatchPlan& batch : plan.micro_batches) {
    const int64_t sum = std::accumulate(batch.rows.begin(), batch.rows.end(), int64_t{0});
    EXPECT_EQ(batch.gathered_rows, config.parallel.require_mlp_tp_gather() ? sum : 0);
    EXPECT_EQ(batch.padding == PaddingMode::kNone, !config.parallel.require_mlp_tp_gather());
    int64_t end = 0;
    for (size_t d = 0; d < num_ranks; ++d) {
      EXPECT_EQ(batch.start[d], batch.gathered_rows > 0 ? end : 0);
      end += batch.rows[d];
      if (batch.padding == PaddingMode::kMaxLen) {
        EXPECT_EQ(batch.rows[d], batch.rows[0]);
      }
      const int64_t chunk_rows =
          plan.dispatch == DispatchMode::kNormal ? config.normal_chunk_rows : config.low_latency_rows;
      if (plan.dispatch != DispatchMode::kNone) {
        EXPECT_LE(batch.rows[d] / config.parallel.attn_tp_size(), batch.expert_chunks * chunk_rows);
      }
    }
  }
}

TEST(StepPlanPropertyTest, RowsHoldTokensAndBuffersHoldRows) {
  int64_t replays = 0, overlaps = 0, local_misses = 0, verify_replays = 0, gated = 0;
  for (uint32_t seed = 0; seed < 20000; ++seed) {
    RandomPlan random(seed);
    const PlanConfig config = random.config();
    const std::vector<RankState> states = random.states(config);
    const StepPlan plan = make_step_plan(states, config);
    expect_sound(plan, states, config);
    EXPECT_EQ(plan.hash(), make_step_plan(states, config).hash());
    const auto replayed = std::count(plan.graph_miss.begin(), plan.graph_miss.end(), GraphMiss::kNone);
    replays += replayed;
    verify_replays += config.tokens_per_req > 1 ? replayed : 0;
    gated += plan.no_tbo_reason.find("gate") != std::string_view::npos ? 1 : 0;
    local_misses += replayed > 0 && replayed < static_cast<int64_t>(states.size()) ? 1 : 0;
    overlaps += plan.tbo ? 1 : 0;
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  // The generator reaches what it is to test.
  EXPECT_GT(replays, 1000);
  EXPECT_GT(verify_replays, 200);
  EXPECT_GT(overlaps, 1000);
  EXPECT_GT(gated, 200);
  EXPECT_GT(local_misses, 50);
}

}  // namespace
}  // namespace weft::plan
