#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "support/generation.h"
#include "support/tiny_model.h"

namespace weft::exec {
namespace {

using test::dispatched_config;
using test::Generated;

struct Layout {
  std::string name;
  runtime::RuntimeConfig config;
  bool graphs = false;
  bool mixed = false;
  int64_t chunk = 16;
};
void PrintTo(const Layout& layout, std::ostream* out) { *out << layout.name; }

runtime::RuntimeConfig parallel(int tp, int dp, int ep = 1, bool tbo = false) {
  auto config = test::tiny_config(tp, dp);
  config.ep_size = ep;
  config.enable_two_batch_overlap = tbo;
  return config;
}

std::map<int64_t, Generated> run(const char* model, const Layout& layout) {
  test::TinyModel tiny(model, layout.config);
  if (layout.graphs) {
    tiny.config.graph_batch_sizes =
        layout.config.enable_two_batch_overlap ? std::vector<int64_t>{8, 16} : std::vector<int64_t>{4, 8};
  }
  runtime::Runtime runtime(tiny.config, tiny.hooks);
  auto results = test::generate(runtime, test::made_up_requests(tiny), tiny.config.dp_size,
                                {.chunk = layout.chunk, .mixed = layout.mixed});
  const auto stats = runtime.stats();
  for (const auto& rank : stats.ranks) {
    EXPECT_EQ(rank.graph_replays > 0, layout.graphs);
    EXPECT_EQ(rank.tbo_steps > 0, layout.config.enable_two_batch_overlap);
    EXPECT_EQ(rank.dispatched_rows > 0, layout.config.moe_a2a_backend == "deepep");
  }
  return results;
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
      {"graphs", parallel(1, 1), true},
      {"tp2", parallel(2, 1)},
      {"tp4_graphs_mixed", parallel(4, 1), true, true},
      {"tp2_ep2", parallel(2, 1, 2)},
      {"dp2", parallel(2, 2)},
      {"dp2_graphs_mixed", parallel(2, 2), true, true},
      {"tp4_dp2", parallel(4, 2), true, true},
      {"tp4_dp2_ep2", parallel(4, 2, 2), true, true},
      {"dp2_tbo", parallel(2, 2, 1, true), true, true},
      {"tp4_dp2_tbo", parallel(4, 2, 1, true), true, true},
      {"tp2_deepep", dispatched_config(2, 1, false), true, true},
      {"dp2_deepep", dispatched_config(2, 2, false), true, true},
      {"tp4_dp2_deepep", dispatched_config(4, 2, false), true, true},
      {"tp4_dp2_deepep_tbo", dispatched_config(4, 2), true, true},
      {"dp4_deepep_tbo", dispatched_config(4, 4), true, true},
  };
  const auto add = [&](const char* name, runtime::RuntimeConfig config, auto&& change, bool graphs = true) {
    change(config);
    all.push_back({name, std::move(config), graphs, true});
  };
  add("pages_of_one", parallel(1, 1), [](auto& c) { c.page_size = 1; });
  add("pages_of_sixteen", parallel(4, 2), [](auto& c) { c.page_size = 16; });
  add(
      "tp4_dp2_deepep_chunks", dispatched_config(4, 2), [](auto& c) { c.dispatch_chunk_rows = 3; }, false);
  add("tp4_dp2_deepep_tbo_sglang", dispatched_config(4, 2), [](auto& c) { c.tbo_policy = "sglang"; });
  add("tp4_dp2_deepep_dense1", dispatched_config(4, 2), [](auto& c) { c.moe_dense_tp_size = 1; });
  add("dp4_deepep_dense1_own_buckets", dispatched_config(4, 4), [](auto& c) {
    c.moe_dense_tp_size = 1;
    c.enable_dp_lm_head = true;
  });
  add("tp4_dp2_dense1_gathered", parallel(4, 2), [](auto& c) { c.moe_dense_tp_size = 1; });
  add("tp4_dp2_lm_head", parallel(4, 2), [](auto& c) { c.enable_dp_lm_head = true; });
  add("tp4_dp2_low_latency", dispatched_config(4, 2), [](auto& c) { c.deepep_mode = "low_latency"; });
  // Normal dispatch is never captured.
  add(
      "tp4_dp2_normal", dispatched_config(4, 2), [](auto& c) { c.deepep_mode = "normal"; }, false);
  return all;
}

class LayoutParityTest : public testing::TestWithParam<Layout> {};

TEST_P(LayoutParityTest, DeepseekGivesWhatOneRankGives) {
  static const auto reference = run(test::kDeepseekV3, {"one", parallel(1, 1), false, false, 64});
  expect_close(run(test::kDeepseekV3, GetParam()), reference);
}

TEST_P(LayoutParityTest, QwenGivesWhatOneRankGives) {
  static const auto reference = run(test::kQwen3Moe, {"one", parallel(1, 1), false, false, 64});
  expect_close(run(test::kQwen3Moe, GetParam()), reference);
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutParityTest, testing::ValuesIn(layouts()),
                         [](const auto& layout) { return layout.param.name; });

}  // namespace
}  // namespace weft::exec
