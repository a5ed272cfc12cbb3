#include "plan/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "random_plan.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;

ParallelConfig deepep(int tp_size, int dp_size) {
  ParallelConfig p;
  p.tp_size = p.ep_size = tp_size;
  p.dp_size = dp_size;
  p.enable_dp_attention = dp_size > 1;
  p.a2a_backend = A2aBackend::kDeepEp;
  return p;
}

std::string refusal(const ParallelConfig& parallel) {
  try {
    parallel.validate();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(LayerLayoutsTest, ExpertDispatchScattersRowsBetweenMoeLayers) {
  const auto layers = layer_layouts({false, true, true}, deepep(4, 2));
  EXPECT_EQ(layers[0].mlp, Layout::kFull);
  EXPECT_EQ(layers[0].prepare_mlp, PrepareMlp::kGatherHiddenStatesAndResidual);
  EXPECT_EQ(layers[0].postprocess, Postprocess::kScatterHiddenStates);
  EXPECT_EQ(layers[1].prepare_mlp, PrepareMlp::kScatterHiddenStatesAndResidual);
  EXPECT_EQ(layers[1].output, Layout::kScattered);
  EXPECT_EQ(layers[2].prepare_attn, PrepareAttn::kScatteredToTpAttnFull);
  EXPECT_EQ(layers[2].postprocess, Postprocess::kGather);  // the last layer hands full rows to the LM head
}

TEST(LayerLayoutsTest, OneRankAnAttentionGroupMovesNoRowUnderDispatch) {
  ParallelConfig p = deepep(4, 4);
  p.moe_dense_tp_size = 1;
  for (const LayerLayout& layer : layer_layouts({false, true, true, true}, p)) {
    EXPECT_EQ(layer.prepare_attn, PrepareAttn::kTrivial);
    EXPECT_EQ(layer.prepare_mlp, PrepareMlp::kSimple);
    EXPECT_EQ(layer.postprocess, Postprocess::kTrivial);
  }
}

TEST(LayerLayoutsTest, LastDenseLayerHandsOverFullRowsOnlyWithOverlap) {
  ParallelConfig p = deepep(4, 2);
  p.moe_dense_tp_size = 1;
  EXPECT_EQ(layer_layouts({false, true}, p)[0].output, Layout::kScattered);
  p.enable_two_batch_overlap = true;
  EXPECT_EQ(layer_layouts({false, true}, p)[0].output, Layout::kTpAttnFull);
}

TEST(LayerLayoutsTest, PlainTensorParallelMovesNoRowAfterTheFfn) {
  ParallelConfig p;
  p.tp_size = 4;
  const auto layers = layer_layouts({false, true}, p);
  EXPECT_EQ(layers[1].prepare_mlp, PrepareMlp::kGatherHiddenStatesAndResidual);
  EXPECT_EQ(layers[1].postprocess, Postprocess::kTrivial);
}

TEST(LayerLayoutsPropertyTest, EachLayerStartsWhereTheLastEndedAndEndsAreFull) {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    RandomPlan random(seed);
    const auto layers = layer_layouts(random.model().sparse_pattern, random.parallel());
    EXPECT_EQ(layers.front().input, Layout::kTpAttnFull);
    EXPECT_EQ(layers.back().output, Layout::kTpAttnFull);
    for (size_t i = 1; i < layers.size(); ++i) EXPECT_EQ(layers[i].input, layers[i - 1].output);
  }
  EXPECT_TRUE(layer_layouts({}, ParallelConfig{}).empty());
}

TEST(ParallelConfigTest, PredicatesFollowSglang) {
  ParallelConfig p;
  EXPECT_FALSE(p.require_mlp_sync());
  p.tp_size = 4;
  EXPECT_FALSE(p.require_gathered_buffer());  // plain tensor parallel
  p.a2a_backend = A2aBackend::kDeepEp;
  p.ep_size = 4;
  EXPECT_FALSE(p.require_mlp_tp_gather());
  EXPECT_TRUE(p.require_attn_tp_gather());  // even without DP attention
  p.enable_dp_attention = true;
  p.dp_size = 4;
  EXPECT_TRUE(p.require_mlp_tp_gather());
  EXPECT_FALSE(p.require_attn_tp_gather());
  p.moe_dense_tp_size = 1;
  EXPECT_TRUE(p.require_mlp_tp_gather());  // the LM head still gathers
  p.enable_dp_lm_head = true;
  EXPECT_FALSE(p.require_mlp_tp_gather());
  EXPECT_TRUE(p.require_mlp_sync());
  p.moe_dense_tp_size = 4;
  EXPECT_TRUE(p.require_mlp_tp_gather());
}

TEST(ParallelConfigTest, RanksOfAGroupAreNeighbours) {
  ParallelConfig p = deepep(8, 4);
  EXPECT_EQ(p.attn_tp_size(), 2);
  EXPECT_EQ(p.attn_dp_rank(5), 2);
  EXPECT_EQ(p.attn_tp_rank(5), 1);
}

TEST(ParallelConfigTest, ImpossibleCombinationsAreRefusedWithTheFix) {
  ParallelConfig p;
  p.tp_size = 4;
  p.dp_size = 2;
  EXPECT_THAT(refusal(p), HasSubstr("--enable-dp-attention"));
  p.enable_dp_attention = true;
  EXPECT_EQ(refusal(p), "accepted");
  p.dp_size = 3;
  EXPECT_THAT(refusal(p), HasSubstr("tp_size=4 is not a multiple of dp_size=3"));
  p.dp_size = 2;
  p.ep_size = 3;
  EXPECT_THAT(refusal(p), HasSubstr("ep_size=3"));
  p.ep_size = 2;
  EXPECT_EQ(refusal(p), "accepted");
  p.a2a_backend = A2aBackend::kDeepEp;
  EXPECT_THAT(refusal(p), HasSubstr("set --ep 4"));
  p.ep_size = 4;
  p.moe_dense_tp_size = 2;
  EXPECT_THAT(refusal(p), HasSubstr("moe_dense_tp_size=2"));
  p = ParallelConfig{};
  p.enable_dp_lm_head = true;
  EXPECT_THAT(refusal(p), HasSubstr("--enable-dp-attention"));
  p = ParallelConfig{};
  p.tp_size = 0;
  EXPECT_THAT(refusal(p), HasSubstr("tp_size=0"));
}

TEST(DispatchModeTest, AutoIsNormalIffAnyRankExtends) {
  ParallelConfig p = deepep(4, 2);
  EXPECT_EQ(dispatch_mode(p, true), DispatchMode::kNormal);
  EXPECT_EQ(dispatch_mode(p, false), DispatchMode::kLowLatency);
  p.deepep_mode = DeepEpMode::kLowLatency;
  EXPECT_EQ(dispatch_mode(p, true), DispatchMode::kLowLatency);
  p.deepep_mode = DeepEpMode::kNormal;
  EXPECT_EQ(dispatch_mode(p, false), DispatchMode::kNormal);
  p.a2a_backend = A2aBackend::kNone;
  EXPECT_EQ(dispatch_mode(p, true), DispatchMode::kNone);
}

TEST(FlagNamesTest, ParseBackToTheirValuesAndRefuseOthersByName) {
  for (const A2aBackend backend : {A2aBackend::kNone, A2aBackend::kDeepEp}) {
    EXPECT_EQ(parse_a2a_backend(a2a_backend_name(backend)), backend);
  }
  for (const DeepEpMode mode : {DeepEpMode::kAuto, DeepEpMode::kNormal, DeepEpMode::kLowLatency}) {
    EXPECT_EQ(parse_deepep_mode(deepep_mode_name(mode)), mode);
  }
  for (const DispatchMode mode : {DispatchMode::kNone, DispatchMode::kNormal, DispatchMode::kLowLatency}) {
    EXPECT_EQ(parse_dispatch_mode(dispatch_mode_name(mode)), mode);
  }
  for (const TboPolicy policy : {TboPolicy::kAny, TboPolicy::kSglang}) {
    EXPECT_EQ(parse_tbo_policy(tbo_policy_name(policy)), policy);
  }
  EXPECT_THROW((void)parse_a2a_backend("mooncake"), Error);
  EXPECT_THROW((void)parse_deepep_mode(""), Error);
  EXPECT_THROW((void)parse_dispatch_mode("auto"), Error);
  EXPECT_THROW((void)parse_tbo_policy("all"), Error);
}

}  // namespace
}  // namespace weft::plan
