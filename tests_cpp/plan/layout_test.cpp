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

TEST(LayerLayoutsTest, LayernormSpKeepsRowsScatteredBetweenAllParts) {
  for (const bool dispatched : {false, true}) {
    for (const int dp_size : {1, 2}) {
      ParallelConfig p = deepep(4, dp_size);
      if (!dispatched) p.a2a_backend = A2aBackend::kNone;
      p.enable_layernorm_sp = true;
      const auto layers = layer_layouts({false, true, false, true}, p, true);
      for (const LayerLayout& layer : layers) {
        EXPECT_EQ(layer.input, Layout::kScattered);
        EXPECT_EQ(layer.attn, Layout::kTpAttnFull);
        EXPECT_EQ(layer.middle_residual, Layout::kScattered);
        EXPECT_EQ(layer.output, Layout::kScattered);
        EXPECT_EQ(layer.prepare_attn, PrepareAttn::kScatteredToTpAttnFull);
        const bool scattered = dispatched && layer.sparse;
        EXPECT_EQ(layer.mlp, scattered ? Layout::kScattered : Layout::kFull);
        EXPECT_EQ(layer.prepare_mlp,
                  scattered ? PrepareMlp::kScatterHiddenStatesAndResidual : PrepareMlp::kGatherHiddenStates);
        EXPECT_EQ(layer.postprocess, scattered ? Postprocess::kTrivial : Postprocess::kScatterHiddenStates);
      }
    }
  }
}

TEST(LayerLayoutsTest, LayernormSpIsOfTheStepsThatThePlanSaysAlone) {
  ParallelConfig p = deepep(4, 2);
  EXPECT_THROW((void)layer_layouts({true}, p, true), Error);
  p.enable_layernorm_sp = true;
  EXPECT_EQ(layer_layouts({true}, p)[0].input, Layout::kTpAttnFull);
}

TEST(SequenceParallelRowsTest, PadToTheRanksAndLeaveTheLastOnesThePadding) {
  using Slices = std::vector<RowSlice>;
  EXPECT_EQ(sequence_parallel_rows(5, 4), (Slices{{0, 2, 2}, {2, 4, 2}, {4, 6, 1}, {6, 8, 0}}));
  EXPECT_EQ(sequence_parallel_rows(2, 3), (Slices{{0, 1, 1}, {1, 2, 1}, {2, 3, 0}}));
  EXPECT_EQ(sequence_parallel_rows(0, 2), (Slices{{0, 0, 0}, {0, 0, 0}}));
  EXPECT_THROW((void)sequence_parallel_rows(-1, 2), Error);
  EXPECT_THROW((void)sequence_parallel_rows(1, 0), Error);
  EXPECT_THROW((void)sequence_parallel_rows(int64_t{1} << 31, 2), Error);
  EXPECT_THROW((void)sequence_parallel_rows(1, (1 << 16) + 1), Error);
  EXPECT_THROW((void)scattered_rows(3, 5, 2, 0), Error);
  EXPECT_THROW((void)scattered_rows(6, 4, 2, 0), Error);
  EXPECT_THROW((void)scattered_rows(3, 4, 2, 2), Error);
}

TEST(SequenceParallelRowsPropertyTest, EachTokenHasOneRankAndPaddingIsBelowTheRanks) {
  RandomPlan random(1);
  for (int i = 0; i < 2000; ++i) {
    const int64_t num_tokens = random.between(0, 300);
    const auto num_ranks = static_cast<int>(random.between(1, 64));
    int64_t next = 0;
    int64_t real = 0;
    for (const RowSlice& slice : sequence_parallel_rows(num_tokens, num_ranks)) {
      ASSERT_EQ(slice.begin, next);
      ASSERT_GE(slice.real, 0);
      ASSERT_LE(slice.real, slice.size());
      ASSERT_TRUE(slice.real == 0 || slice.begin == real) << "real rows stand before padding";
      next = slice.end;
      real += slice.real;
    }
    ASSERT_EQ(real, num_tokens);
    ASSERT_LT(next - num_tokens, num_ranks);
  }
}

/// Layout pairs that an operation of the boundary can join; the contract of comm::Boundary.
void expect_legal(const LayerLayout& layer, const ParallelConfig& p) {
  const bool attn_tp = p.attn_tp_size() > 1;
  const auto full = [&](Layout layout) { return layout != Layout::kScattered || !attn_tp; };
  EXPECT_EQ(layer.attn, Layout::kTpAttnFull);
  EXPECT_EQ(layer.prepare_attn == PrepareAttn::kTrivial, full(layer.input));
  switch (layer.prepare_mlp) {
    case PrepareMlp::kSimple:  // no row moves and nothing is owed
      EXPECT_FALSE(attn_tp);
      EXPECT_TRUE(layer.mlp == Layout::kScattered || p.attn_dp_size() == 1);
      break;
    case PrepareMlp::kGatherHiddenStatesAndResidual:
      EXPECT_EQ(layer.mlp, Layout::kFull);
      EXPECT_TRUE(full(layer.middle_residual));
      break;
    case PrepareMlp::kScatterHiddenStatesAndResidual:
      EXPECT_EQ(layer.mlp, Layout::kScattered);
      EXPECT_EQ(layer.middle_residual, Layout::kScattered);
      break;
    case PrepareMlp::kGatherHiddenStates:
      EXPECT_EQ(layer.input, Layout::kScattered);
      EXPECT_EQ(layer.mlp, Layout::kFull);
      EXPECT_EQ(layer.middle_residual, Layout::kScattered);
      break;
  }
  switch (layer.postprocess) {
    case Postprocess::kTrivial:
      EXPECT_TRUE(layer.mlp == layer.output || (layer.mlp == Layout::kFull && p.attn_dp_size() == 1) ||
                  (layer.mlp == Layout::kScattered && !attn_tp));
      break;
    case Postprocess::kScatterHiddenStates:
      EXPECT_EQ(layer.mlp, Layout::kFull);
      EXPECT_TRUE(p.attn_dp_size() > 1 || layer.output == Layout::kScattered);
      break;
    case Postprocess::kGather:
      EXPECT_EQ(layer.mlp, Layout::kScattered);
      EXPECT_EQ(layer.output, Layout::kTpAttnFull);
      break;
  }
  // The FFN leaves the residual where the next layer finds its rows.
  EXPECT_TRUE(layer.postprocess == Postprocess::kGather || full(layer.middle_residual) == full(layer.output));
}

TEST(LayerLayoutsPropertyTest, EveryBoundaryIsOneThatRuns) {
  int num_sp = 0;
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    RandomPlan random(seed);
    const ParallelConfig p = random.parallel();
    const std::vector<bool> pattern = random.model().sparse_pattern;
    for (const bool sp : {false, true}) {
      if (sp && !p.enable_layernorm_sp) continue;
      num_sp += sp ? 1 : 0;
      const auto layers = layer_layouts(pattern, p, sp);
      for (size_t i = 0; i < layers.size(); ++i) {
        SCOPED_TRACE(fmt::format("seed {} layer {} sp {}", seed, i, sp));
        expect_legal(layers[i], p);
        EXPECT_EQ(layers[i].sparse, pattern[i]);
        EXPECT_TRUE(!sp || layers[i].output == Layout::kScattered);
        EXPECT_TRUE(i == 0 || layers[i].input == layers[i - 1].output);
        // What an FFN is computed on does not depend on where rows are between parts.
        EXPECT_EQ(layers[i].mlp, layer_layouts(pattern, p)[i].mlp);
      }
    }
  }
  EXPECT_GT(num_sp, 500);
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
  p.enable_layernorm_sp = true;
  EXPECT_THAT(refusal(p), HasSubstr("--enable-layernorm-sp with tp_size=1"));
  p.tp_size = p.dp_size = 4;
  p.enable_dp_attention = true;
  EXPECT_THAT(refusal(p), HasSubstr("lower --dp-size"));
  p.dp_size = 2;
  EXPECT_EQ(refusal(p), "accepted");
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
