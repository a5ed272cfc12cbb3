#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/generation.h"
#include "support/tiny_model.h"

namespace weft::exec {
namespace {

struct Layout {
  std::string name;
  runtime::RuntimeConfig config;
  int64_t chunk = 16;
};
void PrintTo(const Layout& layout, std::ostream* out) { *out << layout.name; }

runtime::RuntimeConfig parallel(int tp, int dp = 1, bool tbo = false) {
  auto config = test::tiny_config(tp, dp);
  config.enable_two_batch_overlap = tbo;
  return config;
}

/// Every way for rows to reach an FFN: gathered with and without DP attention, whole dense FFNs, dispatch.
std::vector<Layout> layouts() {
  std::vector<Layout> all = {
      {"tp2", parallel(2)},
      {"tp4", parallel(4)},
      {"tp4_of_one_token", parallel(4), 1},  // more ranks than tokens
      {"tp4_of_five_tokens", parallel(4), 5},
      {"tp4_dp2", parallel(4, 2)},
      {"tp2_deepep", test::dispatched_config(2, 1, false)},
      {"tp4_deepep_tbo", test::dispatched_config(4, 1)},
      {"tp4_dp2_deepep", test::dispatched_config(4, 2, false)},
      {"tp4_dp2_deepep_tbo_of_three_tokens", test::dispatched_config(4, 2), 3},
      {"tp4_dp2_deepep_tbo_chunks", test::dispatched_config(4, 2)},
      {"tp4_dp2_tbo", parallel(4, 2, true)},
  };
  all[9].config.dispatch_chunk_rows = 3;
  Layout experts{"tp4_ep2", parallel(4)};
  experts.config.ep_size = 2;
  all.push_back(experts);
  Layout dense{"tp4_dense1", parallel(4)};
  dense.config.moe_dense_tp_size = 1;
  all.push_back(dense);
  dense = {"tp4_dp2_deepep_tbo_dense1", test::dispatched_config(4, 2)};
  dense.config.moe_dense_tp_size = 1;
  all.push_back(dense);
  Layout lm_head{"tp4_dp2_lm_head", parallel(4, 2)};
  lm_head.config.enable_dp_lm_head = true;
  all.push_back(lm_head);
  return all;
}

test::TinyModel model_of(const char* config_json, const Layout& layout, bool layernorm_sp) {
  test::TinyModel model(config_json, layout.config);
  model.config.enable_layernorm_sp = layernorm_sp;
  model.config.graph_batch_sizes =
      layout.config.enable_two_batch_overlap ? std::vector<int64_t>{8, 16} : std::vector<int64_t>{4, 8};
  return model;
}

struct Ran {
  std::map<int64_t, test::Generated> generated;
  std::vector<RankCounters> ranks;
};

Ran run(const test::TinyModel& model, const Layout& layout) {
  runtime::Runtime runtime(model.config, model.hooks);
  Ran ran;
  ran.generated = test::generate(runtime, test::made_up_requests(model), model.config.dp_size,
                                 {.chunk = layout.chunk, .mixed = true});
  ran.ranks = runtime.stats().ranks;
  return ran;
}

int64_t calls(const RankCounters& rank, Collective op) {
  return rank.collective_calls[static_cast<size_t>(op)];
}

class LayernormSpTest : public testing::TestWithParam<Layout> {
 protected:
  static void expect_same_bits(const char* config) {
    const auto& layout = GetParam();
    const auto full = run(model_of(config, layout, false), layout);
    auto model = model_of(config, layout, true);
    const auto scattered = run(model, layout);
    EXPECT_EQ(scattered.generated, full.generated);
    model.config.poison = true;
    EXPECT_EQ(run(model, layout).generated, full.generated) << "poisoned";

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

TEST_P(LayernormSpTest, ChangesNoBitOfDeepseek) { expect_same_bits(test::kDeepseekV3); }
TEST_P(LayernormSpTest, ChangesNoBitOfQwen) { expect_same_bits(test::kQwen3Moe); }

INSTANTIATE_TEST_SUITE_P(Layouts, LayernormSpTest, testing::ValuesIn(layouts()),
                         [](const auto& layout) { return layout.param.name; });

TEST(LayernormSpStepsTest, AreThoseInWhichAnyRankPrefills) {
  const Layout layout{"tp4_dp2", parallel(4, 2)};
  // Of three requests; the second DP rank decodes while the first has a long prompt.
  const auto model = model_of(test::kQwen3Moe, layout, true);
  runtime::Runtime runtime(model.config, model.hooks);
  test::generate(runtime, test::made_up_requests(model, 3), model.config.dp_size);
  const auto ranks = runtime.stats().ranks;
  for (const auto& rank : ranks) {
    EXPECT_GT(rank.layernorm_sp_steps, 0);
    EXPECT_EQ(rank.layernorm_sp_steps, rank.graph_misses[static_cast<size_t>(plan::GraphMiss::kExtend)]);
  }
  EXPECT_GT(ranks[2].layernorm_sp_steps,
            ranks[2].steps_by_mode[static_cast<size_t>(plan::ForwardMode::kExtend)]);
}

TEST(LayernormSpOrderTest, OfRandomLegalOrdersHasTheSameBits) {
  const Layout layout{"tp4_dp2_tbo", parallel(4, 2, true)};
  auto model = model_of(test::kDeepseekV3, layout, true);
  const auto in_order = run(model, layout).generated;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    model.hooks.make_device = [seed](int rank, device::CpuOptions options) {
      options.random_order = seed * 10 + static_cast<uint64_t>(rank);
      return device::make_cpu_device(options);
    };
    EXPECT_EQ(run(model, layout).generated, in_order) << "seed " << seed;
  }
}

}  // namespace
}  // namespace weft::exec
