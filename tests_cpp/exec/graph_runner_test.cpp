#include "exec/graph_runner.h"

#include <gtest/gtest.h>

#include <chrono>

namespace weft::exec {
namespace {

constexpr std::chrono::seconds kLong{20};

struct CountArgs {
  int32_t* counter;
};

void count(const CountArgs& args, device::ExecContext&) { ++*args.counter; }

class GraphRunnerTest : public ::testing::Test {
 protected:
  GraphRunnerTest() { compute->fill(counter.data(), 0, counter.num_bytes()); }

  void enqueue_count(device::Stream& stream) {
    auto* data = static_cast<int32_t*>(counter.data());
    stream.launch("count", count, CountArgs{data}, {device::write(data, sizeof(int32_t))});
  }
  int32_t counted() {
    compute->wait_idle(kLong);
    return *static_cast<int32_t*>(counter.data());
  }

  std::unique_ptr<device::Device> device = device::make_cpu_device({});
  device::Buffer counter = device->allocate_host(sizeof(int32_t), "counter");
  std::unique_ptr<device::Event> fork = device->make_event(), join = device->make_event();
  std::unique_ptr<device::Stream> compute = device->make_stream("compute"),
                                  comm = device->make_stream("comm");
  GraphRunner runner;
};

TEST_F(GraphRunnerTest, CapturesAKeyOnceAndReplaysIt) {
  int captures = 0;
  const auto stages = [&] {
    ++captures;
    enqueue_count(*compute);
    return EnqueuedStep{};
  };
  for (int i = 0; i < 3; ++i) runner.replay(*compute, {.bucket = 4}, stages);
  runner.replay(*compute, {.bucket = 8}, stages);
  EXPECT_EQ(counted(), 4);
  EXPECT_EQ(captures, 2);
  EXPECT_EQ(runner.num_graphs(), 2U);
}

TEST_F(GraphRunnerTest, StagesThatThrowInsideACaptureLeaveNoStreamCapturingAndNoGraph) {
  const auto joined_and_broken = [&]() -> EnqueuedStep {
    enqueue_count(*compute);
    compute->record(*fork);
    comm->wait(*fork);
    enqueue_count(*comm);
    WEFT_THROW("the stages broke");
  };
  try {
    runner.replay(*compute, {.bucket = 4}, joined_and_broken);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the stages broke");
  }
  EXPECT_FALSE(compute->is_capturing());
  EXPECT_FALSE(comm->is_capturing());
  EXPECT_EQ(runner.num_graphs(), 0U);
  EXPECT_EQ(counted(), 0) << "nothing of a capture executes";

  // Both streams go on as if nothing had been captured, and the key can be captured after all.
  enqueue_count(*comm);
  comm->wait_idle(kLong);
  runner.replay(*compute, {.bucket = 4}, [&] {
    compute->record(*fork);
    comm->wait(*fork);
    enqueue_count(*comm);
    comm->record(*join);
    compute->wait(*join);
    return EnqueuedStep{};
  });
  EXPECT_EQ(counted(), 2);
  EXPECT_EQ(runner.num_graphs(), 1U);
}

}  // namespace
}  // namespace weft::exec
