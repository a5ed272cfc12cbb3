// The whole runtime on one GPU: what the CPU gives, eager and from graphs.
#if WEFT_CUDA
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "base/error.h"
#include "exec/hold.h"
#include "support/generation.h"
#include "support/tiny_model.h"

namespace weft::exec {
namespace {

using test::Generated;
using test::TinyModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CudaEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!device::cuda_unavailable_reason().empty()) GTEST_SKIP() << device::cuda_unavailable_reason();
  }
};

struct GenerationRun {
  const char* model;
  std::string device;
  bool graphs = false;
  bool mixed = false;
  bool poison = false;
  int64_t chunk = 16;
  std::string dtype = "auto";
};

TinyModel tiny(const GenerationRun& run) {
  TinyModel model(run.model, test::tiny_config());
  model.config.device = run.device;
  model.config.poison = run.poison;
  model.config.dtype = run.dtype;
  if (run.dtype != "auto") model.hooks.weights = model::open_dummy(7);
  if (run.graphs) model.config.graph_batch_sizes = {4, 8};
  return model;
}

std::map<int64_t, Generated> generate(const GenerationRun& run) {
  const TinyModel model = tiny(run);
  runtime::Runtime runtime(model.config, model.hooks);
  auto results =
      test::generate(runtime, test::made_up_requests(model), 1, {.chunk = run.chunk, .mixed = run.mixed});
  EXPECT_EQ(runtime.stats().ranks.at(0).graph_replays > 0, run.graphs);
  return results;
}

void expect_close(const std::map<int64_t, Generated>& actual, const std::map<int64_t, Generated>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [rid, want] : expected) {
    const Generated& got = actual.at(rid);
    EXPECT_EQ(got.tokens, want.tokens) << "request " << rid;
    ASSERT_EQ(got.input_logprobs.size(), want.input_logprobs.size());
    for (size_t i = 0; i < want.input_logprobs.size(); ++i) {
      EXPECT_NEAR(got.input_logprobs[i], want.input_logprobs[i], 3e-4) << "request " << rid << " input " << i;
    }
    ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
    for (size_t i = 0; i < want.logprobs.size(); ++i) {
      EXPECT_NEAR(got.logprobs[i], want.logprobs[i], 3e-4) << "request " << rid << " output " << i;
    }
  }
}

TEST_F(CudaEngineTest, GivesWhatTheCpuGives) {
  for (const char* model : {test::kDeepseekV3, test::kQwen3Moe}) {
    const auto expected = generate({.model = model, .device = "cpu", .chunk = 64});
    expect_close(generate({.model = model, .device = "cuda", .chunk = 64}), expected);
    expect_close(generate({.model = model, .device = "cuda", .chunk = 7}), expected);
    expect_close(generate({.model = model, .device = "cuda", .graphs = true, .mixed = true}), expected);
  }
}

/// qwen3_moe with heads as wide as kernels for tensor cores want them.
constexpr const char* kWideHeads = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 101, "hidden_size": 64,
  "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 128, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true,
  "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32"})";

TEST_F(CudaEngineTest, PromptsOfWideHeadsAreNearWhatTheCpuGives) {
  const auto expected = generate({.model = kWideHeads, .device = "cpu", .chunk = 64, .dtype = "bfloat16"});
  for (const int64_t chunk : {64, 9}) {
    const auto actual =
        generate({.model = kWideHeads, .device = "cuda", .chunk = chunk, .dtype = "bfloat16"});
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [rid, want] : expected) {
      const auto& got = actual.at(rid).input_logprobs;
      ASSERT_EQ(got.size(), want.input_logprobs.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_NEAR(got[i], want.input_logprobs[i], 0.05) << "request " << rid << " input " << i;
      }
    }
  }
}

TEST_F(CudaEngineTest, GraphsAndPoisonChangeNoBit) {
  for (const char* model : {test::kDeepseekV3, test::kQwen3Moe, kWideHeads}) {
    for (const char* dtype : {"bfloat16", "float16"}) {
      const auto expected = generate({.model = model, .device = "cuda", .chunk = 20, .dtype = dtype});
      const auto actual = generate(
          {.model = model, .device = "cuda", .graphs = true, .poison = true, .chunk = 20, .dtype = dtype});
      ASSERT_EQ(actual.size(), expected.size());
      for (const auto& [rid, want] : expected) EXPECT_EQ(actual.at(rid), want) << dtype << " request " << rid;
    }
  }
}

// They change row counts, and with them the kernels of products: what is left is rounding.
TEST_F(CudaEngineTest, ChunksAndMixedBatchesChangeLittle) {
  for (const char* model : {test::kDeepseekV3, test::kQwen3Moe, kWideHeads}) {
    const auto expected = generate({.model = model, .device = "cuda", .chunk = 64, .dtype = "bfloat16"});
    const auto actual =
        generate({.model = model, .device = "cuda", .mixed = true, .chunk = 11, .dtype = "bfloat16"});
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [rid, want] : expected) {
      const auto& got = actual.at(rid).input_logprobs;
      ASSERT_EQ(got.size(), want.input_logprobs.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_NEAR(got[i], want.input_logprobs[i], 0.05) << "request " << rid << " input " << i;
      }
    }
  }
}

TEST_F(CudaEngineTest, GraphsAreCapturedAtTheStartAndTimesAreKnownPerStage) {
  const TinyModel model = tiny({.model = test::kQwen3Moe, .device = "cuda", .graphs = true});
  runtime::Runtime runtime(model.config, model.hooks);
  EXPECT_EQ(runtime.stats().ranks.at(0).graph_captures, 2) << "before the first step";
  EXPECT_GT(runtime.stats().ranks.at(0).graph_capture_us, 0.0);
  EXPECT_EQ(runtime.stats().ranks.at(0).graph_replays, 0);
  test::generate(runtime, test::made_up_requests(model), 1);
  const exec::RankCounters rank = runtime.stats().ranks.at(0);
  EXPECT_EQ(rank.graph_captures, 2);
  EXPECT_GT(rank.graph_replays, 0);
  EXPECT_GT(rank.replay_host_us, 0.0);
  for (const double us : rank.stages.us) EXPECT_GT(us, 0.0);
}

TEST_F(CudaEngineTest, ATimelineTellsOfReplaysToo) {
  const TinyModel model = tiny({.model = test::kDeepseekV3, .device = "cuda", .graphs = true});
  runtime::Runtime runtime(model.config, model.hooks);
  auto requests = test::made_up_requests(model, 3);
  runtime::StepBatch prompts;
  for (const auto& request : requests) {
    prompts.prefill.emplace_back(request.rid, static_cast<int64_t>(request.input_ids.size()));
  }
  prompts.admissions = std::move(requests);
  runtime.wait(runtime.submit(std::move(prompts)));
  ASSERT_EQ(runtime.stats().ranks.at(0).graph_replays, 0);
  runtime.trace_next_step();
  const runtime::StepResult result = runtime.wait(runtime.submit({.decode = {true}}));
  EXPECT_THAT(result.rids, ElementsAre(0, 1, 2));
  EXPECT_EQ(runtime.stats().ranks.at(0).graph_replays, 1);
  std::map<std::string, int64_t> count;
  for (const runtime::TimelineSpan& span : runtime.timeline()) {
    ++count[span.name];
    EXPECT_LE(span.start_us, span.end_us) << span.name;
  }
  const int64_t num_layers = model.hooks.model->num_hidden_layers;
  EXPECT_EQ(count["mla_norm_rope_write"], num_layers);
  EXPECT_EQ(count["mla_decode"], num_layers);
  EXPECT_EQ(count["expert_ffn_and_combine"], num_layers - 1) << "the first layer is dense";
  EXPECT_EQ(count["mla_prefill"], 0) << "the step before was not to be traced";
}

/// Runs a model eager and from graphs on a device with `options`; the error's text, if there is one.
std::string error_with(device::CudaOptions options, double timeout_s, int64_t* num_ops = nullptr) {
  TinyModel model = tiny({.model = test::kDeepseekV3, .device = "cuda", .graphs = true});
  model.config.timeout_s = timeout_s;
  device::Device* device = nullptr;
  model.hooks.make_device = [&](int, const device::CpuOptions&) {
    auto made = device::make_cuda_device(options);
    device = made.get();
    return made;
  };
  try {
    runtime::Runtime runtime(model.config, model.hooks);
    test::generate(runtime, test::made_up_requests(model), 1);
    if (num_ops != nullptr) *num_ops = device::cuda_num_ops(*device);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

/// Calls `fault` with the indices of some ops of error_with(), spread over all; then proves that no run left
/// memory behind.
void at_some_ops(int num_faults, const std::function<void(int64_t op)>& fault) {
  int64_t num_ops = 0;
  ASSERT_EQ(error_with({}, 20.0, &num_ops), "");
  ASSERT_GT(num_ops, 300);
  const size_t free_bytes = device::make_cuda_device({})->memory().free_bytes;
  for (int i = 0; i < num_faults; ++i) {
    const int64_t op = num_ops * i / num_faults;
    SCOPED_TRACE("op " + std::to_string(op));
    fault(op);
  }
  // What one run takes is far more than this; on a GPU, other programs may move the number a little.
  const size_t slack = device::cuda_is_emulated() ? 0 : size_t{64} << 20;
  const auto free_now = [] { return device::make_cuda_device({})->memory().free_bytes; };
  // A rank that was held for longer than a runtime waits for its end gives its memory back on its own.
  for (int i = 0; i < 100 && free_now() + slack < free_bytes; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_GE(free_now() + slack, free_bytes);
}

TEST_F(CudaEngineTest, AnOpThatFailsIsNamedAndTheRuntimeEnds) {
  at_some_ops(8, [](int64_t op) {
    const std::string message = error_with({.fail_op = op}, 20.0);
    EXPECT_THAT(message, StartsWith("rank 0: cuda:0"));
    EXPECT_THAT(message, HasSubstr("op '"));
    EXPECT_THAT(message, HasSubstr("was told to fail"));
  });
}

TEST_F(CudaEngineTest, AnOpThatDoesNotEndIsNamedWithinTheDeadlineAndTheRuntimeEnds) {
  at_some_ops(6, [](int64_t op) {
    const auto start = std::chrono::steady_clock::now();
    const std::string message = error_with({.fail_op = op, .hold = test::hold_stream}, 0.5);
    EXPECT_THAT(message, StartsWith("rank 0: cuda:0"));
    EXPECT_THAT(message, HasSubstr("waited"));
    EXPECT_THAT(message, HasSubstr("op '"));
    // The deadline, and then the hold's own end, without which no memory can be given back.
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
  });
}

TEST_F(CudaEngineTest, WhatOneGpuCannotDoIsRefused) {
  const auto refusal = [](const auto& change) -> std::string {
    TinyModel model = tiny({.model = test::kDeepseekV3, .device = "cuda"});
    change(model.config);
    try {
      runtime::Runtime runtime(model.config, model.hooks);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_THAT(refusal([](auto& c) { c.tp_size = 2; }), HasSubstr("ranks on several GPUs come later"));
  EXPECT_THAT(refusal([](auto& c) { c.moe_a2a_backend = "deepep"; }), HasSubstr("no CUDA kernels yet"));
}

}  // namespace
}  // namespace weft::exec
#endif
