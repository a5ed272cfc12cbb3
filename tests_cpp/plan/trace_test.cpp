#include "plan/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "random_plan.h"

namespace weft::plan {
namespace {

using ::testing::ElementsAre;
using Trace = std::vector<CollectiveRecord>;

constexpr int64_t kHidden = 64;

RankState rows(ForwardMode mode, int64_t num_tokens) {
  RankState s;
  s.mode = mode;
  s.num_tokens = num_tokens;
  s.num_seqs = s.num_logit_rows = mode == ForwardMode::kDecode ? num_tokens : 1;
  s.split_tokens[0] = num_tokens / 2;
  s.split_tokens[1] = num_tokens - num_tokens / 2;
  return s;
}

ModelShape one_layer(bool sparse) {
  return {.sparse_pattern = {sparse}, .hidden = kHidden, .vocab = 10, .dtype = DType::kBF16};
}

PlanConfig config_of(const ParallelConfig& parallel) {
  PlanConfig c;
  c.parallel = parallel;
  c.normal_chunk_rows = c.low_latency_rows = c.logit_chunk_rows = 32;
  return c;
}

std::vector<std::string> lines(const Trace& trace) {
  std::vector<std::string> result;
  for (const CollectiveRecord& record : trace) result.push_back(record.describe());
  return result;
}

Trace of_group(const Trace& trace, Group group) {
  Trace result;
  for (const CollectiveRecord& record : trace) {
    if (record.group == group) result.push_back(record);
  }
  return result;
}

TEST(StepTraceTest, OneRankCommunicatesNothing) {
  const PlanConfig c = config_of({});
  EXPECT_TRUE(step_trace(make_step_plan({rows(ForwardMode::kDecode, 4)}, c), c, one_layer(true), 0).empty());
}

TEST(StepTraceTest, PlainTensorParallelReducesTwiceALayer) {
  ParallelConfig p;
  p.tp_size = 2;
  const PlanConfig c = config_of(p);
  const StepPlan plan = make_step_plan({rows(ForwardMode::kDecode, 3)}, c);
  EXPECT_THAT(lines(step_trace(plan, c, one_layer(false), 1)),
              ElementsAre("all_reduce of 192 bf16 in attn_tp, micro-batch 0, layer -1",
                          "all_reduce of 192 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_reduce of 192 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_gather of 30 f32 in attn_tp, micro-batch 0, layer -1"));
}

TEST(StepTraceTest, DpAttentionGathersForTheFfnAndForTheLmHead) {
  ParallelConfig p;
  p.tp_size = 4;
  p.dp_size = 2;
  p.enable_dp_attention = true;
  const PlanConfig c = config_of(p);
  const StepPlan plan = make_step_plan({rows(ForwardMode::kExtend, 5), rows(ForwardMode::kExtend, 2)}, c);
  EXPECT_THAT(lines(step_trace(plan, c, one_layer(false), 0)),
              ElementsAre("all_reduce of 384 bf16 in attn_tp, micro-batch 0, layer -1",
                          "reduce_scatter of 384 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_gather of 512 bf16 in tp, micro-batch 0, layer 0",
                          "reduce_scatter of 512 bf16 in tp, micro-batch 0, layer 0",
                          "all_gather of 384 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_gather of 128 bf16 in tp, micro-batch 0, layer -1",
                          "all_gather of 24 f32 in tp, micro-batch 0, layer -1"));
}

TEST(StepTraceTest, LayernormSpEndsPartsInAReduceScatterAndGathersOnlyTheLogitRows) {
  ParallelConfig p;
  p.tp_size = 2;
  p.enable_layernorm_sp = true;
  const PlanConfig c = config_of(p);
  const StepPlan prefill = make_step_plan({rows(ForwardMode::kMixed, 3)}, c);
  EXPECT_TRUE(prefill.layernorm_sp);
  EXPECT_EQ(prefill.micro_batches[0].rows[0], 4);
  EXPECT_THAT(lines(step_trace(prefill, c, one_layer(false), 1)),
              ElementsAre("reduce_scatter of 256 bf16 in attn_tp, micro-batch 0, layer -1",
                          "all_gather of 256 bf16 in attn_tp, micro-batch 0, layer 0",
                          "reduce_scatter of 256 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_gather of 256 bf16 in attn_tp, micro-batch 0, layer 0",
                          "reduce_scatter of 256 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_reduce of 64 bf16 in attn_tp, micro-batch 0, layer -1",
                          "all_gather of 10 f32 in attn_tp, micro-batch 0, layer -1"));
  const StepPlan decode = make_step_plan({rows(ForwardMode::kDecode, 3)}, c);
  EXPECT_FALSE(decode.layernorm_sp);
  EXPECT_EQ(decode.micro_batches[0].rows[0], 3);
  PlanConfig without = c;
  without.parallel.enable_layernorm_sp = false;
  EXPECT_EQ(step_trace(decode, c, one_layer(false), 1), step_trace(decode, without, one_layer(false), 1));
}

TEST(StepTraceTest, AttentionOfLatentsGathersThemInsteadOfRows) {
  ParallelConfig p;
  p.tp_size = p.ep_size = 2;
  p.a2a_backend = A2aBackend::kDeepEp;  // MoE layers leave rows scattered, with and without layernorm_sp
  p.enable_layernorm_sp = true;
  const PlanConfig c = config_of(p);
  ModelShape model = one_layer(true);
  model.sparse_pattern = {true, true};
  const auto gathers = [&](const StepPlan& plan) {
    std::vector<int64_t> counts;
    for (const CollectiveRecord& r : step_trace(plan, c, model, 0)) {
      if (r.op == Collective::kAllGather && r.layer >= 0) counts.push_back(r.count);
    }
    return counts;
  };
  const StepPlan prefill = make_step_plan({rows(ForwardMode::kExtend, 4)}, c);
  const StepPlan decode = make_step_plan({rows(ForwardMode::kDecode, 4)}, c);
  EXPECT_THAT(gathers(prefill), ElementsAre(4 * kHidden, 4 * kHidden));
  EXPECT_THAT(gathers(decode), ElementsAre(4 * kHidden, 4 * kHidden));  // the second is the last postprocess
  model.latent_width = 12;
  EXPECT_THAT(gathers(prefill), ElementsAre(4 * 12, 4 * 12));
  EXPECT_THAT(gathers(decode), ElementsAre(4 * 12, 4 * kHidden));
}

TEST(StepTraceTest, LayernormSpWithDpAttentionGathersNormedRowsOnce) {
  ParallelConfig p;
  p.tp_size = 4;
  p.dp_size = 2;
  p.enable_dp_attention = p.enable_layernorm_sp = true;
  const PlanConfig c = config_of(p);
  // The rank that decodes scatters its rows too: the layouts are the step's.
  const StepPlan plan = make_step_plan({rows(ForwardMode::kExtend, 5), rows(ForwardMode::kDecode, 2)}, c);
  EXPECT_THAT(lines(step_trace(plan, c, one_layer(false), 2)),
              ElementsAre("reduce_scatter of 128 bf16 in attn_tp, micro-batch 0, layer -1",
                          "all_gather of 128 bf16 in attn_tp, micro-batch 0, layer 0",
                          "reduce_scatter of 128 bf16 in attn_tp, micro-batch 0, layer 0",
                          "all_gather of 512 bf16 in tp, micro-batch 0, layer 0",
                          "reduce_scatter of 512 bf16 in tp, micro-batch 0, layer 0",
                          "all_reduce of 128 bf16 in attn_tp, micro-batch 0, layer -1",
                          "all_gather of 192 bf16 in tp, micro-batch 0, layer -1",
                          "all_gather of 36 f32 in tp, micro-batch 0, layer -1"));
}

TEST(StepTraceTest, ExpertChunksAlternateDispatchAndCombine) {
  ParallelConfig p;
  p.tp_size = p.dp_size = p.ep_size = 2;
  p.enable_dp_attention = p.enable_dp_lm_head = true;
  p.moe_dense_tp_size = 1;
  p.a2a_backend = A2aBackend::kDeepEp;
  PlanConfig c = config_of(p);
  c.normal_chunk_rows = 4;
  const StepPlan plan = make_step_plan({rows(ForwardMode::kExtend, 5), RankState{}}, c);
  EXPECT_THAT(lines(step_trace(plan, c, one_layer(true), 1)),
              ElementsAre("dispatch of 512 bf16 in tp, micro-batch 0, layer 0",
                          "combine of 512 bf16 in tp, micro-batch 0, layer 0",
                          "dispatch of 512 bf16 in tp, micro-batch 0, layer 0",
                          "combine of 512 bf16 in tp, micro-batch 0, layer 0"));
}

TEST(StepTraceTest, OverlapInterleavesTheMicroBatches) {
  ParallelConfig p;
  p.tp_size = p.dp_size = p.ep_size = 2;
  p.enable_dp_attention = p.enable_dp_lm_head = p.enable_two_batch_overlap = true;
  p.moe_dense_tp_size = 1;
  p.a2a_backend = A2aBackend::kDeepEp;
  const PlanConfig c = config_of(p);
  const StepPlan plan = make_step_plan({rows(ForwardMode::kExtend, 6), rows(ForwardMode::kDecode, 2)}, c);
  const Trace trace = step_trace(plan, c, one_layer(true), 0);
  std::vector<std::pair<Collective, int>> calls;
  for (const CollectiveRecord& record : trace) calls.emplace_back(record.op, record.micro_batch);
  EXPECT_THAT(calls, ElementsAre(std::pair(Collective::kDispatch, 0), std::pair(Collective::kDispatch, 1),
                                 std::pair(Collective::kCombine, 0), std::pair(Collective::kCombine, 1)));
}

TEST(StepTraceTest, AScatteredResidualIsGatheredOnlyWithoutDpAttention) {
  // A dense layer of all ranks after an MoE layer that left its rows scattered.
  ModelShape model = one_layer(true);
  model.sparse_pattern = {true, false};
  ParallelConfig p;
  p.tp_size = p.ep_size = 4;
  p.a2a_backend = A2aBackend::kDeepEp;
  const auto calls = [&](const PlanConfig& c, const std::vector<RankState>& states) {
    std::vector<std::string> names;
    for (const CollectiveRecord& r : step_trace(make_step_plan(states, c), c, model, 0)) {
      if (r.layer == 1) names.push_back(fmt::format("{} {}", collective_name(r.op), group_name(r.group)));
    }
    return names;
  };
  EXPECT_THAT(
      calls(config_of(p), {rows(ForwardMode::kDecode, 4)}),
      ElementsAre("all_gather attn_tp", "all_gather attn_tp", "all_reduce attn_tp", "all_reduce attn_tp"));
  p.enable_dp_attention = true;
  p.dp_size = 2;
  EXPECT_THAT(calls(config_of(p), {rows(ForwardMode::kDecode, 4), rows(ForwardMode::kDecode, 4)}),
              ElementsAre("all_gather attn_tp", "reduce_scatter attn_tp", "all_gather tp",
                          "reduce_scatter tp", "all_gather attn_tp"));
}

TEST(StepTraceTest, LogitPassesCoverEveryRankAndSkipWhatIsDone) {
  ParallelConfig p;
  p.tp_size = 4;
  p.dp_size = 2;
  p.enable_dp_attention = p.enable_dp_lm_head = true;
  PlanConfig c = config_of(p);
  c.logit_chunk_rows = 3;
  const StepPlan plan = make_step_plan({rows(ForwardMode::kDecode, 7), rows(ForwardMode::kDecode, 2)}, c);
  const auto head = [&](int rank) {
    std::vector<int64_t> counts;
    for (const CollectiveRecord& r : step_trace(plan, c, one_layer(false), rank)) {
      if (r.dtype == DType::kF32) counts.push_back(r.count);
    }
    return counts;
  };
  EXPECT_THAT(head(0), ElementsAre(30, 30, 10));  // 3, 3 and 1 rows of 2 shards of 5 columns
  EXPECT_THAT(head(2), ElementsAre(20));
}

TEST(StepTraceTest, NothingRunsNothingIsTraced) {
  const PlanConfig c = config_of({});
  EXPECT_TRUE(step_trace(make_step_plan({RankState{}}, c), c, one_layer(true), 0).empty());
  EXPECT_THROW((void)step_trace(make_step_plan({RankState{}}, c), c, one_layer(true), 1), Error);
  ParallelConfig p;
  p.tp_size = p.dp_size = 2;
  p.enable_dp_attention = true;
  EXPECT_THROW((void)step_trace(make_step_plan({RankState{}}, c), config_of(p), one_layer(true), 1), Error)
      << "a plan of another configuration";
}

TEST(StepTracePropertyTest, RanksAgreeOnEveryCollectiveTheyShare) {
  size_t num_records = 0, unlike_rows = 0;
  for (uint32_t seed = 0; seed < 8000; ++seed) {
    RandomPlan random(seed);
    const PlanConfig config = random.config();
    const ParallelConfig& parallel = config.parallel;
    const StepPlan plan = make_step_plan(random.states(config), config);
    const ModelShape model = random.model();
    std::vector<Trace> traces;
    for (int rank = 0; rank < parallel.tp_size; ++rank) {
      traces.push_back(step_trace(plan, config, model, rank));
      num_records += traces.back().size();
      const Trace& mine = traces.back();
      const Trace& first = traces[static_cast<size_t>(rank - parallel.attn_tp_rank(rank))];
      ASSERT_EQ(of_group(mine, Group::kTp), of_group(traces[0], Group::kTp))
          << "seed " << seed << " rank " << rank;
      ASSERT_EQ(shared_trace_hash(mine), shared_trace_hash(traces[0])) << "seed " << seed << " rank " << rank;
      // Ranks of one attention group share both groups' collectives, so their order must agree as well.
      ASSERT_EQ(mine, first) << "seed " << seed << " rank " << rank;
      ASSERT_EQ(trace_hash(mine), trace_hash(first));
      unlike_rows += trace_hash(mine) != trace_hash(traces[0]) ? 1 : 0;
      for (const CollectiveRecord& record : mine) ASSERT_GT(record.count, 0);
    }
  }
  EXPECT_GT(num_records, 100000U);
  EXPECT_GT(unlike_rows, 100U) << "groups with rows of their own are covered";
}

}  // namespace
}  // namespace weft::plan
