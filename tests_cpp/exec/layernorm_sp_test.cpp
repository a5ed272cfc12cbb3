#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "exec/generation.h"

namespace weft::exec::testing {
namespace {

struct Layout {
  std::string name;
  plan::ParallelConfig parallel;
  int64_t chunk = 16;
  int64_t normal_rows = 64;
};

plan::ParallelConfig parallel(int tp, int dp = 1) {
  plan::ParallelConfig p;
  p.tp_size = tp;
  p.dp_size = dp;
  p.enable_dp_attention = dp > 1;
  return p;
}

plan::ParallelConfig dispatched(int tp, int dp = 1, bool tbo = false) {
  auto p = parallel(tp, dp);
  p.ep_size = tp;
  p.a2a_backend = plan::A2aBackend::kDeepEp;
  p.enable_two_batch_overlap = tbo;
  return p;
}

/// Every way for rows to reach an FFN: gathered with and without DP attention, whole dense FFNs, dispatch.
std::vector<Layout> layouts() {
  std::vector<Layout> all = {
      {"tp2", parallel(2)},
      {"tp4", parallel(4)},
      {"tp4_of_one_token", parallel(4), 1},  // more ranks than tokens
      {"tp4_of_five_tokens", parallel(4), 5},
      {"tp4_dp2", parallel(4, 2)},
      {"tp2_deepep", dispatched(2)},
      {"tp4_deepep_tbo", dispatched(4, 1, true)},
      {"tp4_dp2_deepep", dispatched(4, 2)},
      {"tp4_dp2_deepep_tbo_of_three_tokens", dispatched(4, 2, true), 3},
      {"tp4_dp2_deepep_tbo_chunks", dispatched(4, 2, true), 16, 3},
  };
  Layout tbo{"tp4_dp2_tbo", parallel(4, 2)};
  tbo.parallel.enable_two_batch_overlap = true;
  all.push_back(tbo);
  Layout experts{"tp4_ep2", parallel(4)};
  experts.parallel.ep_size = 2;
  all.push_back(experts);
  Layout dense{"tp4_dense1", parallel(4)};
  dense.parallel.moe_dense_tp_size = 1;
  all.push_back(dense);
  dense = {"tp4_dp2_deepep_tbo_dense1", dispatched(4, 2, true)};
  dense.parallel.moe_dense_tp_size = 1;
  all.push_back(dense);
  Layout lm_head{"tp4_dp2_lm_head", parallel(4, 2)};
  lm_head.parallel.enable_dp_lm_head = true;
  all.push_back(lm_head);
  return all;
}

ScriptOptions options_for(const char* config, const Layout& layout, bool layernorm_sp) {
  ScriptOptions options;
  options.config_json = config;
  options.parallel = layout.parallel;
  options.parallel.enable_layernorm_sp = layernorm_sp;
  options.page_size = 4;
  options.normal_chunk_rows = layout.normal_rows;
  options.graph_buckets =
      layout.parallel.enable_two_batch_overlap ? std::vector<int64_t>{8, 16} : std::vector<int64_t>{4, 8};
  return options;
}

struct Ran {
  std::map<int64_t, Generated> generated;
  std::vector<RankCounters> ranks;
};

Ran run(const ScriptOptions& options, const Layout& layout) {
  ScriptedModel model(options);
  Ran ran;
  ran.generated = generate(model, {.chunk = layout.chunk, .mixed = true}, layout.parallel.attn_dp_size());
  ran.ranks = model.pipeline().stats().ranks;
  return ran;
}

int64_t calls(const RankCounters& rank, Collective op) {
  return rank.collective_calls[static_cast<size_t>(op)];
}

class LayernormSpTest : public ::testing::TestWithParam<Layout> {
 protected:
  static void expect_same_bits(const char* config) {
    const auto& layout = GetParam();
    const auto full = run(options_for(config, layout, false), layout);
    auto options = options_for(config, layout, true);
    const auto scattered = run(options, layout);
    EXPECT_EQ(scattered.generated, full.generated);
    options.poison = true;
    EXPECT_EQ(run(options, layout).generated, full.generated) << "poisoned";

    for (size_t r = 0; r < full.ranks.size(); ++r) {
      const auto& without = full.ranks[r];
      const auto& with = scattered.ranks[r];
      EXPECT_EQ(without.layernorm_sp_steps, 0);
      EXPECT_GT(with.layernorm_sp_steps, 0);
      EXPECT_EQ(with.graph_replays, without.graph_replays) << "steps of decode are as they were";
      EXPECT_GT(with.graph_replays, 0);
      EXPECT_EQ(with.tbo_steps, without.tbo_steps);
      EXPECT_GT(calls(with, Collective::kReduceScatter), calls(without, Collective::kReduceScatter));
    }
  }
};

TEST_P(LayernormSpTest, ChangesNoBitOfDeepseek) { expect_same_bits(kDeepseekV3); }
TEST_P(LayernormSpTest, ChangesNoBitOfQwen) { expect_same_bits(kQwen3Moe); }

INSTANTIATE_TEST_SUITE_P(Layouts, LayernormSpTest, ::testing::ValuesIn(layouts()),
                         [](const auto& layout) { return layout.param.name; });

TEST(LayernormSpStepsTest, AreThoseInWhichAnyRankPrefills) {
  const Layout layout{"tp4_dp2", parallel(4, 2)};
  const auto ran = run(options_for(kQwen3Moe, layout, true), layout);
  // Ranks that decode while others prefill scatter their rows with them.
  for (const auto& rank : ran.ranks) EXPECT_EQ(rank.layernorm_sp_steps, ran.ranks[0].layernorm_sp_steps);
  const auto prefills = [](const RankCounters& rank) {
    return rank.steps_by_mode[static_cast<size_t>(plan::ForwardMode::kExtend)] +
           rank.steps_by_mode[static_cast<size_t>(plan::ForwardMode::kMixed)];
  };
  EXPECT_GE(ran.ranks[0].layernorm_sp_steps, prefills(ran.ranks[0]));
  EXPECT_GE(ran.ranks[2].layernorm_sp_steps, prefills(ran.ranks[2]));
}

TEST(LayernormSpOrderTest, OfRandomLegalOrdersHasTheSameBits) {
  const Layout layout{"tp4_dp2_tbo", [] {
                        auto p = parallel(4, 2);
                        p.enable_two_batch_overlap = true;
                        return p;
                      }()};
  auto options = options_for(kDeepseekV3, layout, true);
  const auto in_order = run(options, layout).generated;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    options.device_options = [seed](int rank, device::CpuOptions device_options) {
      device_options.random_order = seed * 10 + static_cast<uint64_t>(rank);
      return device_options;
    };
    EXPECT_EQ(run(options, layout).generated, in_order) << "seed " << seed;
  }
}

}  // namespace
}  // namespace weft::exec::testing
