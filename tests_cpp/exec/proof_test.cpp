#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "exec/generation.h"

namespace weft::exec::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

plan::ParallelConfig overlapped(int tp, int dp) {
  plan::ParallelConfig p;
  p.tp_size = tp;
  p.dp_size = dp;
  p.enable_dp_attention = dp > 1;
  p.ep_size = tp;
  p.a2a_backend = plan::A2aBackend::kDeepEp;
  p.enable_two_batch_overlap = true;
  return p;
}

ScriptOptions overlapped_options(int tp = 4, int dp = 2) {
  ScriptOptions options;
  options.config_json = kDeepseekV3;
  options.parallel = overlapped(tp, dp);
  options.page_size = 4;
  return options;
}

std::map<int64_t, Generated> run(const ScriptOptions& options, const Script& script = {.mixed = true}) {
  ScriptedModel model(options);
  return generate(model, script, options.parallel.attn_dp_size());
}

TEST(SameBitsTest, OfARepeatedRun) { EXPECT_EQ(run(overlapped_options()), run(overlapped_options())); }

TEST(SameBitsTest, OfGraphAndEagerAndOfMorePadding) {
  auto options = overlapped_options();
  const auto eager = run(options);
  options.graph_buckets = {4, 8};
  EXPECT_EQ(run(options), eager);
  options.graph_buckets = {16};  // every decode step is padded to it
  EXPECT_EQ(run(options), eager);
}

TEST(SameBitsTest, OfGatheredRowsPaddedByGraphs) {
  auto options = overlapped_options();
  options.parallel.a2a_backend = plan::A2aBackend::kNone;
  options.parallel.ep_size = 1;
  const auto eager = run(options);
  options.graph_buckets = {16};
  EXPECT_EQ(run(options), eager);
}

TEST(SameBitsTest, OfRandomLegalOrders) {
  const auto in_order = run(overlapped_options());
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    auto options = overlapped_options();
    options.device_options = [seed](int rank, device::CpuOptions device_options) {
      device_options.random_order = seed * 10 + static_cast<uint64_t>(rank);
      return device_options;
    };
    if (seed % 2 == 0) options.graph_buckets = {4, 8};
    EXPECT_EQ(run(options), in_order) << "seed " << seed;
  }
}

TEST(SameBitsTest, WithNanInPaddingWorkspacesAndUnusedPages) {
  for (const bool dispatched : {true, false}) {
    for (const bool graphs : {false, true}) {
      auto options = overlapped_options();
      if (!dispatched) {
        options.parallel.a2a_backend = plan::A2aBackend::kNone;
        options.parallel.ep_size = 1;
      }
      if (graphs) options.graph_buckets = {8, 16};
      const auto clean = run(options);
      options.poison = true;
      EXPECT_EQ(run(options), clean) << (dispatched ? "dispatched" : "gathered")
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
  auto options = overlapped_options();
  options.wrap_peers = [&](int rank, RankPeers peers) {
    if (rank == 0) {
      // Micro-batch 0 dispatches first, so the first call of either dispatcher is its own.
      peers.wrap_dispatcher = [&](std::unique_ptr<comm::Dispatcher> inner) {
        return std::make_unique<HoldingDispatcher>(std::move(inner), &hold, &calls);
      };
    }
    return peers;
  };
  ScriptedModel model(options);
  model.device(0).start_trace();
  std::thread generation([&] { generate(model, {.mixed = true}, 2); });
  bool second_routed = false;
  bool first_dispatched = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(8);
  while (!second_routed && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const auto spans = model.device(0).take_trace();
    model.device(0).start_trace();
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
  auto options = overlapped_options();
  options.graph_buckets = {8};
  options.wrap_peers = [&](int, RankPeers peers) {
    peers.wrap_dispatcher = [&](std::unique_ptr<comm::Dispatcher> inner) {
      return std::make_unique<HoldingDispatcher>(std::move(inner), nullptr, &calls);
    };
    return peers;
  };
  ScriptedModel model(options);
  Script script{.num_requests = 2, .new_tokens = 4};
  generate(model, script, 2);
  const int short_calls = calls;
  const auto before = model.pipeline().stats().ranks[0].graph_replays;
  EXPECT_GT(before, 0);
  script.new_tokens = 40;
  generate(model, script, 2);
  // The second generation has the same prefills and 36 more decode steps, all of them replays.
  EXPECT_GE(model.pipeline().stats().ranks[0].graph_replays, before + 36);
  EXPECT_LT(calls - short_calls, short_calls + 1);
}

TEST(FaultTest, AThrowingOpEndsTheStepNamingRankAndOp) {
  auto options = overlapped_options();
  options.graph_buckets = {8};
  int64_t num_ops = 0;
  {
    ScriptedModel model(options);
    generate(model, {.mixed = true}, 2);
    num_ops = device::cpu_num_ops(model.device(1));
  }
  ASSERT_GT(num_ops, 500);
  for (int64_t op = num_ops / 50; op < num_ops; op += num_ops / 23) {
    options.device_options = [op](int rank, device::CpuOptions device_options) {
      if (rank == 1) device_options.fail_op = op;
      return device_options;
    };
    ScriptedModel model(options);
    try {
      generate(model, {.mixed = true}, 2);
      FAIL() << "op " << op << " did not fail";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("cpu:1"));
      EXPECT_THAT(error.what(), HasSubstr("op '"));
      EXPECT_THAT(error.what(), HasSubstr("was told to fail"));
    }
    const auto start = std::chrono::steady_clock::now();
    model.pipeline().close();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  }
}

TEST(CheckedBuildTest, EachRemovedWaitOfTheScheduleIsCaught) {
#ifndef WEFT_CHECKED
  GTEST_SKIP() << "needs a build with WEFT_CHECKED";
#else
  for (const bool graphs : {false, true}) {
    auto options = overlapped_options();
    options.parallel = overlapped(2, 2);
    if (graphs) options.graph_buckets = {4, 8};
    // Every step has rows in both micro-batches of rank 0: a wait for nobody's rows orders nothing.
    const Script script{.num_requests = 4, .first_request = 2, .new_tokens = 2, .overlap = false};
    std::map<int64_t, Generated> right;
    int64_t num_waits = 0;
    {
      ScriptedModel model(options);
      right = generate(model, script, 2);
      num_waits = device::cpu_num_waits(model.device(0));
    }
    ASSERT_GT(num_waits, 20);
    std::vector<int64_t> missed;
    for (int64_t wait = 0; wait < num_waits; ++wait) {
      options.device_options = [wait](int rank, device::CpuOptions device_options) {
        if (rank == 0) device_options.drop_wait = wait;
        return device_options;
      };
      try {
        ScriptedModel model(options);
        generate(model, script, 2);
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
        options.device_options = [wait, seed](int rank, device::CpuOptions device_options) {
          if (rank == 0) device_options.drop_wait = wait;
          device_options.random_order = seed;
          return device_options;
        };
        EXPECT_EQ(run(options, script), right) << "wait " << wait << ", seed " << seed;
      }
    }
  }
#endif
}

}  // namespace
}  // namespace weft::exec::testing
