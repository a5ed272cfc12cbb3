#include <gtest/gtest.h>

#include <cmath>

#include "exec/generation.h"

namespace weft::exec::testing {
namespace {

using plan::A2aBackend;
using plan::DeepEpMode;

struct Layout {
  std::string name;
  plan::ParallelConfig parallel;
  bool graphs = false;
  bool mixed = false;
  int64_t chunk = 16;
  int64_t page_size = 1;
  int64_t normal_rows = 64;
  plan::TboPolicy policy = plan::TboPolicy::kAny;
};

plan::ParallelConfig parallel(int tp, int dp, int ep = 1, bool deepep = false, bool tbo = false) {
  plan::ParallelConfig p;
  p.tp_size = tp;
  p.dp_size = dp;
  p.enable_dp_attention = dp > 1;
  p.ep_size = deepep ? tp : ep;
  p.a2a_backend = deepep ? A2aBackend::kDeepEp : A2aBackend::kNone;
  p.enable_two_batch_overlap = tbo;
  return p;
}

ScriptOptions options_for(const char* config, const Layout& layout) {
  ScriptOptions options;
  options.config_json = config;
  options.parallel = layout.parallel;
  options.tbo_policy = layout.policy;
  options.page_size = layout.page_size;
  options.normal_chunk_rows = layout.normal_rows;
  if (layout.graphs) {
    options.graph_buckets =
        layout.parallel.enable_two_batch_overlap ? std::vector<int64_t>{8, 16} : std::vector<int64_t>{4, 8};
  }
  return options;
}

std::map<int64_t, Generated> run(const char* config, const Layout& layout) {
  ScriptedModel model(options_for(config, layout));
  const Script script{.chunk = layout.chunk, .mixed = layout.mixed};
  return generate(model, script, layout.parallel.attn_dp_size());
}

void expect_close(const std::map<int64_t, Generated>& actual, const std::map<int64_t, Generated>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [rid, want] : expected) {
    const auto& got = actual.at(rid);
    EXPECT_EQ(got.tokens, want.tokens) << "request " << rid;
    ASSERT_EQ(got.input_logprobs.size(), want.input_logprobs.size()) << "request " << rid;
    for (size_t i = 0; i < want.input_logprobs.size(); ++i) {
      EXPECT_NEAR(got.input_logprobs[i], want.input_logprobs[i], 3e-4) << "request " << rid << " input " << i;
    }
    ASSERT_EQ(got.logprobs.size(), want.logprobs.size()) << "request " << rid;
    for (size_t i = 0; i < want.logprobs.size(); ++i) {
      EXPECT_NEAR(got.logprobs[i], want.logprobs[i], 3e-4) << "request " << rid << " output " << i;
    }
  }
}

std::vector<Layout> layouts() {
  std::vector<Layout> all = {
      {"chunked", parallel(1, 1), false, false, 7},
      {"pages", parallel(1, 1), false, true, 16, 16},
      {"graphs", parallel(1, 1), true},
      {"tp2", parallel(2, 1)},
      {"tp4_graphs_mixed", parallel(4, 1), true, true},
      {"tp2_ep2", parallel(2, 1, 2)},
      {"dp2", parallel(2, 2)},
      {"dp2_graphs_mixed", parallel(2, 2), true, true},
      {"tp4_dp2", parallel(4, 2), true, true},
      {"tp4_dp2_ep2", parallel(4, 2, 2), true, true},
      {"dp2_tbo", parallel(2, 2, 1, false, true), true, true},
      {"tp4_dp2_tbo", parallel(4, 2, 1, false, true), true, true},
      {"tp2_deepep", parallel(2, 1, 2, true), true, true},
      {"dp2_deepep", parallel(2, 2, 2, true), true, true},
      {"tp4_dp2_deepep", parallel(4, 2, 4, true), true, true},
      {"tp4_dp2_deepep_tbo", parallel(4, 2, 4, true, true), true, true},
      {"dp4_deepep_tbo", parallel(4, 4, 4, true, true), true, true},
      {"tp4_dp2_deepep_chunks", parallel(4, 2, 4, true, true), false, true, 16, 1, 3},
      {"tp4_dp2_deepep_tbo_sglang", parallel(4, 2, 4, true, true), true, true, 16, 1, 64,
       plan::TboPolicy::kSglang},
  };
  Layout dense_1{"tp4_dp2_deepep_dense1", parallel(4, 2, 4, true, true), true, true};
  dense_1.parallel.moe_dense_tp_size = 1;
  all.push_back(dense_1);
  dense_1.name = "dp4_deepep_dense1_own_buckets";
  dense_1.parallel = parallel(4, 4, 4, true, true);
  dense_1.parallel.moe_dense_tp_size = 1;
  dense_1.parallel.enable_dp_lm_head = true;
  all.push_back(dense_1);
  Layout dense_none{"tp4_dp2_dense1_gathered", parallel(4, 2), true, true};
  dense_none.parallel.moe_dense_tp_size = 1;
  all.push_back(dense_none);
  Layout lm_head{"tp4_dp2_lm_head", parallel(4, 2), true, true};
  lm_head.parallel.enable_dp_lm_head = true;
  all.push_back(lm_head);
  Layout low{"tp4_dp2_low_latency", parallel(4, 2, 4, true, true), true, true};
  low.parallel.deepep_mode = DeepEpMode::kLowLatency;
  all.push_back(low);
  Layout normal{"tp4_dp2_normal", parallel(4, 2, 4, true, true), true, true};
  normal.parallel.deepep_mode = DeepEpMode::kNormal;
  all.push_back(normal);
  return all;
}

class LayoutParityTest : public ::testing::TestWithParam<Layout> {};

TEST_P(LayoutParityTest, DeepseekGivesWhatOneRankGives) {
  static const auto reference = run(kDeepseekV3, {"one", parallel(1, 1), false, false, 64});
  expect_close(run(kDeepseekV3, GetParam()), reference);
}

TEST_P(LayoutParityTest, QwenGivesWhatOneRankGives) {
  static const auto reference = run(kQwen3Moe, {"one", parallel(1, 1), false, false, 64});
  expect_close(run(kQwen3Moe, GetParam()), reference);
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutParityTest, ::testing::ValuesIn(layouts()),
                         [](const auto& layout) { return layout.param.name; });

}  // namespace
}  // namespace weft::exec::testing
