#include "runtime/runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "pipeline_fixture.h"
#include "support/generation.h"
#include "support/tiny_model.h"

// The whole runtime over a tiny DeepSeek-V3 with made-up weights.
namespace weft::runtime {
namespace {

using test::made_up_requests;
using test::TinyModel;
using testing::HasSubstr;
using testing::StartsWith;

TinyModel overlapped() {
  TinyModel model(test::kDeepseekV3);
  model.config.graph_batch_sizes = {4, 8};
  return model;
}

std::map<int64_t, test::Generated> generate(Runtime& runtime, const TinyModel& model) {
  return test::generate(runtime, made_up_requests(model), model.config.dp_size, {.mixed = true});
}

TEST(RuntimeTest, SaysWhatItRan) {
  const TinyModel model = overlapped();
  Runtime runtime(model.config, model.hooks);
  generate(runtime, model);
  const Stats stats = runtime.stats();
  ASSERT_EQ(stats.ranks.size(), 4U);
  for (const exec::RankCounters& counters : stats.ranks) {
    EXPECT_GT(counters.steps_by_mode[static_cast<size_t>(plan::ForwardMode::kMixed)], 0);
    EXPECT_GT(counters.tbo_steps, 0);
    EXPECT_GT(counters.graph_replays, 0);
    EXPECT_GT(counters.dispatch_steps[static_cast<size_t>(plan::DispatchMode::kLowLatency)], 0);
  }
  EXPECT_EQ(stats.requests.finished, 6);
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.pages_total, 2 * 256);
  EXPECT_EQ(runtime.num_pages(), 256);
  EXPECT_EQ(runtime.vocab_size(), 97);
}

TEST(RuntimeTest, ATimelineShowsBothMicroBatchesOnEveryRank) {
  const TinyModel model = overlapped();
  Runtime runtime(model.config, model.hooks);
  runtime.trace_next_step();
  generate(runtime, model);
  std::set<std::pair<int, int>> seen;
  for (const TimelineSpan& span : runtime.timeline()) {
    EXPECT_LE(0.0, span.start_us);
    EXPECT_LE(span.start_us, span.end_us);
    if (span.micro_batch >= 0) seen.emplace(span.rank, span.micro_batch);
  }
  EXPECT_EQ(seen.size(), 8U);
}

TEST(RuntimeTest, TheLedgerNamesEachRanksMemory) {
  const TinyModel model = overlapped();
  Runtime runtime(model.config, model.hooks);
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
  TinyModel model = overlapped();
  model.hooks.weights = source;
  EXPECT_THAT(error_of([&] { Runtime(model.config, model.hooks); }),
              HasSubstr("model.layers.0.mystery.weight"));
}

TEST(StartTest, NamesTheRankThatLacksATensor) {
  auto source = std::make_shared<SourceWithExtra>();
  source->missing = "model.layers.1.mlp.experts.5.down_proj.weight";
  TinyModel model = overlapped();
  model.hooks.weights = source;
  EXPECT_THAT(error_of([&] { Runtime(model.config, model.hooks); }),
              StartsWith("rank 2: ") /* of experts 4 and 5 */);
}

TEST(StartTest, NamesAModelFolderThatIsNotThere) {
  RuntimeConfig config = test::tiny_config();
  config.model_path = "/no/such/model";
  EXPECT_THAT(error_of([&] { Runtime{config}; }), HasSubstr("/no/such/model"));
  EXPECT_THAT(error_of([&] { static_cast<void>(memory_ledger(config)); }), HasSubstr("/no/such/model"));
}

TEST(StartTest, RefusesAnUnknownLoadFormat) {
  TinyModel model = overlapped();
  model.config.load_format = "gguf";
  model.hooks.weights = nullptr;
  EXPECT_THAT(error_of([&] { Runtime(model.config, model.hooks); }), HasSubstr("load_format='gguf'"));
}

TEST(FaultTest, AnOpThatThrowsOnAnyRankIsNamedAndTheRuntimeEnds) {
  constexpr int kFaults = 24;
  TinyModel model = overlapped();
  int64_t num_ops = 0;
  {
    device::Device* device = nullptr;
    model.hooks.make_device = [&](int rank, device::CpuOptions options) {
      auto made = device::make_cpu_device(std::move(options));
      if (rank == 1) device = made.get();
      return made;
    };
    Runtime runtime(model.config, model.hooks);
    generate(runtime, model);
    num_ops = device::cpu_num_ops(*device);
  }
  ASSERT_GT(num_ops, 500);
  // From the first op, before any step, to the last steps.
  for (int fault = 0; fault < kFaults; ++fault) {
    const int faulty = fault % 4;
    const int64_t op = num_ops * fault / kFaults;
    SCOPED_TRACE(fmt::format("op {} of rank {}", op, faulty));
    model.hooks.make_device = [&](int rank, device::CpuOptions options) {
      if (rank == faulty) options.fail_op = op;
      return device::make_cpu_device(std::move(options));
    };
    std::string message;
    try {
      Runtime runtime(model.config, model.hooks);
      message = error_of([&] { generate(runtime, model); });
      // Whoever comes later is told the same.
      EXPECT_EQ(error_of([&] { runtime.submit({.decode = {true, true}}); }), message);
      EXPECT_EQ(error_of([&] { runtime.wait(1); }), message);
      runtime.close();          // throws if a rank does not end in time
    } catch (const Error& e) {  // it failed before the first step
      message = e.what();
    }
    EXPECT_THAT(message, StartsWith(fmt::format("rank {}: cpu:{}", faulty, faulty)));
    EXPECT_THAT(message, HasSubstr("op '"));
    EXPECT_THAT(message, HasSubstr("was told to fail"));
  }
}

TEST(PoisonTest, UnusedPagesAreThoseThatNoRequestOwns) {
  TinyModel model(test::kDeepseekV3, test::tiny_config());
  Runtime plain(model.config, model.hooks);
  model.config.poison = true;
  model.hooks.edit_input = [](int, exec::ForwardInput& input) {
    const std::set<int32_t> unused(input.unused_pages.begin(), input.unused_pages.end());
    EXPECT_LT(unused.size(), 256U);
    EXPECT_GT(unused.size(), 200U);
    for (const int32_t page : input.micro_batches[0].pages) EXPECT_EQ(unused.count(page), 0U);
  };
  Runtime poisoned(model.config, model.hooks);
  EXPECT_EQ(generate(poisoned, model), generate(plain, model));
}

}  // namespace
}  // namespace weft::runtime
