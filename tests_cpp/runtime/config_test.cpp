#include "runtime/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>

#include "pipeline_fixture.h"
#include "runtime/cores.h"

namespace weft::runtime {
namespace {

using testing::HasSubstr;

model::ModelConfig tiny_model() {
  model::ModelConfig model;
  model.vocab_size = 97;
  model.max_position_embeddings = 128;
  model.dtype = DType::kBF16;
  return model;
}

RuntimeConfig valid() {
  RuntimeConfig config;
  config.max_tokens_per_step = 30;
  config.max_running_requests = 8;
  config.max_total_tokens = 1000;
  config.page_size = 16;
  return config;
}

TEST(ResolveTest, DerivesSizesFromTheFlags) {
  RuntimeConfig config = valid();
  config.tp_size = 4;
  config.dp_size = 2;
  config.enable_dp_attention = true;
  config.ep_size = 4;
  config.moe_a2a_backend = "deepep";
  config.graph_batch_sizes = {4, 16};
  config.dispatch_chunk_rows = 10;
  const exec::ExecConfig e = resolve(config, tiny_model());
  EXPECT_EQ(e.dtype, DType::kBF16);
  EXPECT_EQ(e.max_context, 128);
  EXPECT_EQ(e.num_pages, 62);
  EXPECT_EQ(e.max_tokens, 30);
  EXPECT_EQ(e.plan.normal_chunk_rows, 10);
  EXPECT_EQ(e.plan.low_latency_rows, 8);  // the largest graph's rows of one rank
  EXPECT_EQ(e.plan.logit_chunk_rows, 16);
  EXPECT_EQ(e.timeout.count(), 60000);
}

TEST(ResolveTest, AStepHoldsAllRunningRequests) {
  RuntimeConfig config = valid();
  config.max_tokens_per_step = 3;
  EXPECT_EQ(resolve(config, tiny_model()).max_tokens, 8);
}

TEST(ResolveTest, DispatchChunksAreNoLargerThanAStep) {
  RuntimeConfig config = valid();
  config.tp_size = 2;
  config.ep_size = 2;
  config.moe_a2a_backend = "deepep";
  const exec::ExecConfig e = resolve(config, tiny_model());
  EXPECT_EQ(e.plan.normal_chunk_rows, 15);
  EXPECT_EQ(e.plan.low_latency_rows, 4);
}

struct BadConfig {
  const char* name;
  std::function<void(RuntimeConfig&)> change;
  const char* message;
};

void PrintTo(const BadConfig& bad, std::ostream* out) { *out << bad.name; }

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedByName) {
  RuntimeConfig config = valid();
  GetParam().change(config);
  EXPECT_THAT(error_of([&] { static_cast<void>(resolve(config, tiny_model())); }),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfigTest,
    testing::Values(
        BadConfig{"Device", [](auto& c) { c.device = std::string("cuda"); }, "device='cuda'"},
        BadConfig{"Dtype", [](auto& c) { c.dtype = std::string("int8"); },
                  "dtype='int8' is unknown; use one of: auto, float32, bfloat16, float16"},
        BadConfig{"Backend", [](auto& c) { c.moe_a2a_backend = std::string("x"); }, "moe_a2a_backend='x'"},
        BadConfig{"DeepEpMode", [](auto& c) { c.deepep_mode = std::string("x"); }, "deepep_mode='x'"},
        BadConfig{"Policy", [](auto& c) { c.tbo_policy = std::string("x"); },
                  "tbo_policy='x' is unknown; use one of: any, sglang"},
        BadConfig{"DpWithoutAttention", [](auto& c) { c.dp_size = 2; }, "dp"},
        BadConfig{"NoRequests", [](auto& c) { c.max_running_requests = 0; }, "max_running_requests=0"},
        BadConfig{"NoTokens", [](auto& c) { c.max_tokens_per_step = 0; }, "max_tokens_per_step=0"},
        BadConfig{"NoPageSize", [](auto& c) { c.page_size = 0; }, "page_size=0"},
        BadConfig{"NoPage", [](auto& c) { c.max_total_tokens = 15; },
                  "max_total_tokens=15 holds no page of page_size=16"},
        BadConfig{"CacheBeyondInt32", [](auto& c) { c.max_total_tokens = int64_t{1} << 31; },
                  "exceeds 2147483647"},
        BadConfig{"Context", [](auto& c) { c.context_length = 129; }, "max_position_embeddings=128"},
        BadConfig{"TopLogprobs", [](auto& c) { c.max_top_logprobs = 98; }, "max_top_logprobs=98"},
        BadConfig{"DispatchRows", [](auto& c) { c.dispatch_chunk_rows = 0; }, "dispatch_chunk_rows=0"},
        BadConfig{"Timeout", [](auto& c) { c.timeout_s = 0; }, "timeout_s=0"},
        BadConfig{"Threads", [](auto& c) { c.num_threads = -1; }, "num_threads=-1"},
        BadConfig{"Threshold", [](auto& c) { c.tbo_token_distribution_threshold = 0.6; },
                  "tbo_token_distribution_threshold=0.6"},
        BadConfig{"Buckets",
                  [](auto& c) {
                    c.graph_batch_sizes = {4, 2};
                  },
                  "bucket"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(CoresTest, AreDividedAndEachRankHasOne) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_EQ(cores_of_rank(7, 3, 0), 3);
  EXPECT_EQ(cores_of_rank(7, 3, 1), 2);
  EXPECT_EQ(cores_of_rank(7, 3, 2), 2);
  EXPECT_EQ(cores_of_rank(2, 4, 3), 1);
}

TEST(CoresTest, TheLeastQuotaOfAGroupAndItsParentsCounts) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(testing::TempDir()) / "cgroup";
  const auto write = [](const fs::path& level, const char* quota) {
    fs::create_directories(level);
    std::ofstream(level / "cpu.max") << quota << "\n";
  };
  write(root / "a" / "b", "450000 100000");
  EXPECT_EQ(quota_cores(root, "/a/b"), 5);
  write(root / "a", "150000 100000");
  EXPECT_EQ(quota_cores(root, "/a/b"), 2) << "a parent's quota binds its children";
  EXPECT_EQ(quota_cores(root, "/"), std::nullopt);
  write(root, "max 100000");
  EXPECT_EQ(quota_cores(root, "/a/b/gone"), 2);
  EXPECT_EQ(quota_cores(root, "/../a"), std::nullopt);
  fs::remove_all(root);
}

}  // namespace
}  // namespace weft::runtime
