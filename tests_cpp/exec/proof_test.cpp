#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "support/generation.h"
#include "support/tiny_model.h"

namespace weft::exec {
namespace {

using test::Generated;
using test::made_up_requests;
using test::TinyModel;
using testing::AnyOf;
using testing::HasSubstr;

std::map<int64_t, Generated> generate(runtime::Runtime& runtime, const TinyModel& model,
                                      std::vector<runtime::Admission> requests,
                                      const test::Schedule& schedule = {.mixed = true}) {
  return test::generate(runtime, std::move(requests), model.config.dp_size, schedule);
}

std::map<int64_t, Generated> run(const TinyModel& model) {
  runtime::Runtime runtime(model.config, model.hooks);
  return generate(runtime, model, made_up_requests(model));
}

TEST(SameBitsTest, OfARepeatedRun) {
  const TinyModel model(test::kDeepseekV3);
  EXPECT_EQ(run(model), run(model));
}

TEST(SameBitsTest, OfGraphAndEagerAndOfMorePadding) {
  TinyModel model(test::kDeepseekV3);
  const auto eager = run(model);
  model.config.graph_batch_sizes = {4, 8};
  EXPECT_EQ(run(model), eager);
  model.config.graph_batch_sizes = {16};  // every decode step is padded to it
  EXPECT_EQ(run(model), eager);
}

TEST(SameBitsTest, OfGatheredRowsPaddedByGraphs) {
  TinyModel model(test::kDeepseekV3);
  model.config.moe_a2a_backend = "none";
  model.config.ep_size = 1;
  const auto eager = run(model);
  model.config.graph_batch_sizes = {16};
  EXPECT_EQ(run(model), eager);
}

TEST(SameBitsTest, OfRandomLegalOrders) {
  const auto in_order = run(TinyModel(test::kDeepseekV3));
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    TinyModel model(test::kDeepseekV3);
    model.hooks.make_device = [seed](int rank, device::CpuOptions options) {
      options.random_order = seed * 10 + static_cast<uint64_t>(rank);
      return device::make_cpu_device(options);
    };
    if (seed % 2 == 0) model.config.graph_batch_sizes = {4, 8};
    EXPECT_EQ(run(model), in_order) << "seed " << seed;
  }
}

TEST(SameBitsTest, WithNanInPaddingWorkspacesAndUnusedPages) {
  for (const bool dispatched : {true, false}) {
    for (const bool graphs : {false, true}) {
      TinyModel model(test::kDeepseekV3);
      if (!dispatched) {
        model.config.moe_a2a_backend = "none";
        model.config.ep_size = 1;
      }
      if (graphs) model.config.graph_batch_sizes = {8, 16};
      const auto clean = run(model);
      model.config.poison = true;
      EXPECT_EQ(run(model), clean) << (dispatched ? "dispatched" : "gathered")
                                   << (graphs ? " graphs" : " eager");
    }
  }
}

/// Passes dispatch on, after an op that waits for a flag.
struct Hold {
  std::atomic<bool> armed{true};
  std::atomic<bool> held{false};
  std::atomic<bool> released{false};
};

struct HoldArgs {
  Hold* hold;
};

void hold_op(const HoldArgs& args, device::ExecContext&) {
  args.hold->held = true;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!args.hold->released) {
    if (std::chrono::steady_clock::now() > deadline) throw Error("nobody released the dispatch");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// Counts host calls; on the first one holds the communication stream.
class HoldingDispatcher final : public comm::Dispatcher {
 public:
  HoldingDispatcher(std::unique_ptr<comm::Dispatcher> inner, Hold* hold, std::atomic<int>* calls)
      : inner_(std::move(inner)), hold_(hold), calls_(calls) {}
  comm::ReceivedRows dispatch(device::Stream& stream, plan::DispatchMode mode, int64_t chunk,
                              const comm::SendRows& rows) override {
    ++*calls_;
    if (hold_ != nullptr && hold_->armed.exchange(false)) {
      stream.launch("hold", hold_op, HoldArgs{hold_}, {}, device::OpKind::kCollective);
    }
    return inner_->dispatch(stream, mode, chunk, rows);
  }
  void combine(device::Stream& stream, plan::DispatchMode mode, int64_t chunk, const comm::SendRows& rows,
               const device::TensorView& out) override {
    inner_->combine(stream, mode, chunk, rows, out);
  }
  [[nodiscard]] int64_t received_rows() const override { return inner_->received_rows(); }

 private:
  std::unique_ptr<comm::Dispatcher> inner_;
  Hold* hold_;
  std::atomic<int>* calls_;
};

TEST(OverlapProofTest, SecondMicroBatchComputesWhileTheFirstOnesDispatchIsHeld) {
  Hold hold;
  std::atomic<int> calls{0};
  TinyModel model(test::kDeepseekV3);
  model.hooks.wrap_dispatcher = [&](int rank, std::unique_ptr<comm::Dispatcher> inner) {
    // Micro-batch 0 dispatches first, so the first call of either dispatcher is its own.
    return std::make_unique<HoldingDispatcher>(std::move(inner), rank == 0 ? &hold : nullptr, &calls);
  };
  device::Device* device = nullptr;
  model.hooks.make_device = [&](int rank, device::CpuOptions options) {
    auto made = device::make_cpu_device(std::move(options));
    if (rank == 0) device = made.get();
    return made;
  };
  runtime::Runtime runtime(model.config, model.hooks);
  device->start_trace();
  std::thread generation([&] { generate(runtime, model, made_up_requests(model)); });
  bool second_routed = false;
  bool first_dispatched = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(8);
  while (!second_routed && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const auto spans = device->take_trace();
    device->start_trace();
    for (const auto& span : spans) {
      if (span.name == "dispatch") first_dispatched = true;
      // Attention and routing of micro-batch 1: its compute up to its own dispatch.
      if (span.tag == 1 && span.stream == "compute" && span.name == "route") second_routed = true;
    }
  }
  EXPECT_TRUE(hold.held);
  EXPECT_TRUE(second_routed) << "micro-batch 1 computed nothing while micro-batch 0 was held";
  EXPECT_FALSE(first_dispatched) << "the dispatch was not held";
  hold.released = true;
  generation.join();
}

TEST(OverlapProofTest, ReplayRunsNoStageCode) {
  std::atomic<int> calls{0};
  TinyModel model(test::kDeepseekV3);
  model.config.graph_batch_sizes = {8};
  model.hooks.wrap_dispatcher = [&](int, std::unique_ptr<comm::Dispatcher> inner) {
    return std::make_unique<HoldingDispatcher>(std::move(inner), nullptr, &calls);
  };
  runtime::Runtime runtime(model.config, model.hooks);
  generate(runtime, model, made_up_requests(model, 2, 0, 4), {});
  const int short_calls = calls;
  const auto before = runtime.stats().ranks[0].graph_replays;
  EXPECT_GT(before, 0);
  generate(runtime, model, made_up_requests(model, 2, 0, 40), {});
  // The second generation has the same prefills and 36 more decode steps, all of them replays.
  EXPECT_GE(runtime.stats().ranks[0].graph_replays, before + 36);
  EXPECT_LT(calls - short_calls, short_calls + 1);
}

TEST(CheckedBuildTest, EachRemovedWaitOfTheScheduleIsCaught) {
#ifndef WEFT_CHECKED
  GTEST_SKIP() << "needs a build with WEFT_CHECKED";
#else
  for (const bool graphs : {false, true}) {
    TinyModel model(test::kDeepseekV3, test::dispatched_config(2, 2));
    if (graphs) model.config.graph_batch_sizes = {4, 8};
    // Every step has rows in both micro-batches of rank 0: a wait for nobody's rows orders nothing.
    const auto run_once = [&](const std::function<void(int rank, device::CpuOptions&)>& change,
                              int64_t* num_waits) {
      device::Device* device = nullptr;
      model.hooks.make_device = [&](int rank, device::CpuOptions options) {
        change(rank, options);
        auto made = device::make_cpu_device(std::move(options));
        if (rank == 0) device = made.get();
        return made;
      };
      runtime::Runtime runtime(model.config, model.hooks);
      auto results = generate(runtime, model, made_up_requests(model, 4, 2, 2), {.overlap = false});
      if (num_waits != nullptr) *num_waits = device::cpu_num_waits(*device);
      return results;
    };
    int64_t num_waits = 0;
    const auto right = run_once([](int, device::CpuOptions&) {}, &num_waits);
    ASSERT_GT(num_waits, 20);
    std::vector<int64_t> missed;
    for (int64_t wait = 0; wait < num_waits; ++wait) {
      try {
        const auto drop = [&](int rank, device::CpuOptions& options) {
          if (rank == 0) options.drop_wait = wait;
        };
        run_once(drop, nullptr);
        missed.push_back(wait);
      } catch (const Error& error) {
        // A stream that should have joined a capture and did not is caught before any order is looked at.
        EXPECT_THAT(error.what(), AnyOf(HasSubstr("order"), HasSubstr("capture")));
      }
    }
    // A wait may be implied by others: the stages of the other micro-batch made the communication stream wait
    // for later work already. Then no legal order can tell that it is gone.
    EXPECT_LE(missed.size(), 2U) << "of " << num_waits;
    for (const int64_t wait : missed) {
      for (uint64_t seed = 1; seed <= 5; ++seed) {
        const auto drop_and_shuffle = [&](int rank, device::CpuOptions& options) {
          if (rank == 0) options.drop_wait = wait;
          options.random_order = seed;
        };
        EXPECT_EQ(run_once(drop_and_shuffle, nullptr), right) << "wait " << wait << ", seed " << seed;
      }
    }
  }
#endif
}

}  // namespace
}  // namespace weft::exec
