#include "runtime/runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "pipeline_fixture.h"

// The whole runtime over a tiny DeepSeek-V3 with made-up weights.
namespace weft::runtime {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kConfig = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 97, "hidden_size": 48,
  "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 8, "routed_scaling_factor": 1.5,
  "kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 10,
  "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "norm_topk_prob": true,
  "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu", "max_position_embeddings": 128,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float32"})";

RuntimeConfig one_rank() {
  RuntimeConfig config;
  config.load_format = "dummy";
  config.max_tokens_per_step = 32;
  config.max_running_requests = 8;
  config.max_total_tokens = 512;
  config.page_size = 4;
  config.max_top_logprobs = 2;
  config.timeout_s = 20;
  return config;
}

RuntimeConfig overlapped() {
  RuntimeConfig config = one_rank();
  config.tp_size = 4;
  config.dp_size = 2;
  config.enable_dp_attention = true;
  config.ep_size = 4;
  config.moe_a2a_backend = "deepep";
  config.enable_two_batch_overlap = true;
  config.graph_batch_sizes = {4, 8};
  return config;
}

RuntimeHooks hooks() {
  RuntimeHooks hooks;
  hooks.model = model::parse_config(kConfig);
  return hooks;
}

// Four requests over the DP ranks, submitted one step ahead; the second pair prefills while the first
// decodes.
std::map<int64_t, std::vector<int32_t>> generate(Runtime& runtime, int dp_size) {
  const auto request = [&](int32_t rid) {
    Admission a = admission(rid, {}, 6, rid % dp_size);
    for (int32_t i = 0; i < 5 + 3 * rid; ++i) a.input_ids.push_back((rid * 31 + i * 7) % 97);
    a.temperature = 0.0F;
    return a;
  };
  const std::vector<bool> all(static_cast<size_t>(dp_size), true);
  std::deque<uint64_t> in_flight;
  std::map<int64_t, std::vector<int32_t>> tokens;
  for (int step = 0; step == 0 || !in_flight.empty(); ++step) {
    StepBatch batch{.decode = all};
    if (step == 0) batch = {.admissions = {request(0), request(1)}, .prefill = {{0, 5}, {1, 8}}};
    if (step == 2)
      batch = {.admissions = {request(2), request(3)}, .prefill = {{2, 11}, {3, 14}}, .decode = all};
    const uint64_t ticket = runtime.submit(std::move(batch));
    if (ticket != 0) in_flight.push_back(ticket);
    if (in_flight.size() < 2 && ticket != 0) continue;
    const StepResult result = runtime.wait(in_flight.front());
    in_flight.pop_front();
    for (size_t i = 0; i < result.rids.size(); ++i) tokens[result.rids[i]].push_back(result.tokens[i]);
  }
  return tokens;
}

TEST(RuntimeTest, AllLayoutsGiveTheSameTokensAndSayWhatTheyRan) {
  Runtime alone(one_rank(), hooks());
  const auto expected = generate(alone, 1);
  EXPECT_EQ(expected.size(), 4U);
  EXPECT_EQ(expected.at(3).size(), 6U);

  Runtime runtime(overlapped(), hooks());
  EXPECT_EQ(generate(runtime, 2), expected);
  const Stats stats = runtime.stats();
  ASSERT_EQ(stats.ranks.size(), 4U);
  for (const exec::RankCounters& counters : stats.ranks) {
    EXPECT_GT(counters.steps_by_mode[static_cast<size_t>(plan::ForwardMode::kMixed)], 0);
    EXPECT_GT(counters.tbo_steps, 0);
    EXPECT_GT(counters.graph_replays, 0);
    EXPECT_GT(counters.dispatch_steps[static_cast<size_t>(plan::DispatchMode::kLowLatency)], 0);
  }
  EXPECT_EQ(stats.requests.finished, 4);
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.pages_total, 2 * 128);
  EXPECT_EQ(runtime.num_pages(), 128);
  EXPECT_EQ(runtime.vocab_size(), 97);
}

TEST(RuntimeTest, ATimelineShowsBothMicroBatchesOnEveryRank) {
  Runtime runtime(overlapped(), hooks());
  runtime.trace_next_step();
  generate(runtime, 2);
  std::set<std::pair<int, int>> seen;
  for (const TimelineSpan& span : runtime.timeline()) {
    EXPECT_LE(0.0, span.start_us);
    EXPECT_LE(span.start_us, span.end_us);
    if (span.micro_batch >= 0) seen.emplace(span.rank, span.micro_batch);
  }
  EXPECT_EQ(seen.size(), 8U);
}

TEST(RuntimeTest, TheLedgerNamesEachRanksMemory) {
  Runtime runtime(overlapped(), hooks());
  std::map<int, int64_t> bytes;
  for (const RankMemoryItem& item : runtime.memory_ledger()) bytes[item.rank] += item.num_bytes;
  ASSERT_EQ(bytes.size(), 4U);
  EXPECT_GT(bytes.at(3), 0);
}

// Made-up weights, and the name of a tensor that no model has.
class SourceWithExtra : public model::WeightSource {
 public:
  [[nodiscard]] bool contains(std::string_view name) const override { return inner_->contains(name); }
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const model::Slice> slices,
            const device::TensorView& dst) override {
    WEFT_CHECK(name != missing, "tensor '{}' is missing", name);
    inner_->read(name, full_shape, slices, dst);
  }
  [[nodiscard]] std::vector<std::string> names() const override { return extra; }

  std::vector<std::string> extra;
  std::string missing;

 private:
  std::unique_ptr<model::WeightSource> inner_ = model::open_dummy(1);
};

TEST(StartTest, RefusesACheckpointWithATensorThatNobodyReads) {
  auto source = std::make_shared<SourceWithExtra>();
  source->extra = {"model.layers.0.mystery.weight"};
  RuntimeHooks with = hooks();
  with.weights = source;
  EXPECT_THAT(error_of([&] { Runtime(overlapped(), with); }), HasSubstr("model.layers.0.mystery.weight"));
}

TEST(StartTest, NamesTheRankThatLacksATensor) {
  auto source = std::make_shared<SourceWithExtra>();
  source->missing = "model.layers.1.mlp.experts.5.down_proj.weight";
  RuntimeHooks with = hooks();
  with.weights = source;
  EXPECT_THAT(error_of([&] { Runtime(overlapped(), with); }),
              StartsWith("rank 2: ") /* of experts 4 and 5 */);
}

TEST(StartTest, NamesAModelFolderThatIsNotThere) {
  RuntimeConfig config = one_rank();
  config.model_path = "/no/such/model";
  EXPECT_THAT(error_of([&] { Runtime{config}; }), HasSubstr("/no/such/model"));
  EXPECT_THAT(error_of([&] { static_cast<void>(memory_ledger(config)); }), HasSubstr("/no/such/model"));
}

TEST(StartTest, RefusesAnUnknownLoadFormat) {
  RuntimeConfig config = one_rank();
  config.load_format = "gguf";
  EXPECT_THAT(error_of([&] { Runtime(config, hooks()); }), HasSubstr("load_format='gguf'"));
}

TEST(FaultTest, AnOpThatThrowsOnAnyRankIsNamedAndTheRuntimeEnds) {
  for (int rank = 0; rank < 4; ++rank) {
    for (const int64_t op : {0, 90, 200, 350}) {
      SCOPED_TRACE(fmt::format("op {} of rank {}", op, rank));
      RuntimeHooks with = hooks();
      with.device_options = [&](int r, device::CpuOptions& options) {
        if (r == rank) options.fail_op = op;
      };
      std::string message;
      try {
        Runtime runtime(overlapped(), with);
        message = error_of([&] { generate(runtime, 2); });
        // Whoever comes later is told the same.
        EXPECT_EQ(error_of([&] { runtime.submit({.decode = {true, true}}); }), message);
        EXPECT_EQ(error_of([&] { runtime.wait(1); }), message);
        runtime.close();          // throws if a rank does not end in time
      } catch (const Error& e) {  // it failed before the first step
        message = e.what();
      }
      EXPECT_THAT(message, StartsWith(fmt::format("rank {}: ", rank)));
      EXPECT_THAT(message, HasSubstr("op '"));
    }
  }
}

TEST(PoisonTest, UnusedPagesAreThoseThatNoRequestOwns) {
  RuntimeConfig config = one_rank();
  config.poison = true;
  RuntimeHooks with = hooks();
  with.edit_input = [](int, exec::ForwardInput& input) {
    const std::set<int32_t> unused(input.unused_pages.begin(), input.unused_pages.end());
    EXPECT_LT(unused.size(), 128U);
    EXPECT_GT(unused.size(), 100U);
    for (const int32_t page : input.micro_batches[0].pages) EXPECT_EQ(unused.count(page), 0U);
  };
  Runtime poisoned(config, with);
  Runtime plain(one_rank(), hooks());
  EXPECT_EQ(generate(poisoned, 1), generate(plain, 1));
}

}  // namespace
}  // namespace weft::runtime
