#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>

#include "pipeline_fixture.h"

namespace weft::runtime {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// A failure of rank `rank` in its `count`-th step's `call`.
struct Fault {
  int rank;
  std::string call;
  int64_t count;
};

void PrintTo(const Fault& fault, std::ostream* out) {
  *out << fault.call << fault.count << "OfRank" << fault.rank;
}

class FailureTest : public testing::TestWithParam<Fault> {};

// Runs four overlapped steps of two requests on DP ranks of two ranks each.
void generate(FakePipeline& fake) {
  uint64_t last = fake.pipeline->submit(
      {.admissions = {admission(1, {4, 5}, 9, 0), admission(2, {6}, 9, 1)}, .prefill = {{1, 2}, {2, 1}}});
  for (int i = 0; i < 3; ++i) {
    const uint64_t next = fake.pipeline->submit({.decode = {true, true}});
    fake.pipeline->wait(last);
    last = next;
  }
  fake.pipeline->wait(last);
}

TEST_P(FailureTest, NamesTheRankAndEndsAllOthers) {
  const Fault fault = GetParam();
  FakePipeline fake({.tp_size = 4, .dp_size = 2});
  fake.world.on_call = [&](int rank, const std::string& call, int64_t count) {
    WEFT_CHECK(rank != fault.rank || call != fault.call || count != fault.count, "op qkv_gemm broke");
    // The others would wait for it in a collective; start is over before any step.
    while (call == "collect" && count >= fault.count && rank != fault.rank && !fake.world.aborted) {
      std::this_thread::yield();
    }
  };
  fake.start();
  const std::string expected = fmt::format("rank {}: op qkv_gemm broke", fault.rank);
  EXPECT_EQ(error_of([&] { generate(fake); }), expected);
  EXPECT_EQ(error_of([&] { fake.pipeline->submit({.decode = {true, true}}); }), expected);
  EXPECT_EQ(error_of([&] { fake.pipeline->wait(fault.count); }), expected);
  fake.pipeline->close();
  EXPECT_EQ(fake.world.num_alive, 0);
  EXPECT_EQ(fake.world.abort_reason, expected);
}

INSTANTIATE_TEST_SUITE_P(EveryRankAndCall, FailureTest,
                         testing::Values(Fault{0, "enqueue", 1}, Fault{1, "enqueue", 1},
                                         Fault{3, "enqueue", 2}, Fault{0, "collect", 1},
                                         Fault{1, "collect", 2}, Fault{2, "collect", 3},
                                         Fault{3, "collect", 4}),
                         [](const auto& test) { return testing::PrintToString(test.param); });

TEST(StartTest, ARankThatCannotStartEndsTheOthers) {
  FakePipeline fake({.tp_size = 4});
  fake.world.on_call = [](int rank, const std::string&, int64_t) {
    WEFT_CHECK(rank != 2, "layer 3: no such tensor");
  };
  EXPECT_EQ(error_of([&] { fake.start(); }), "rank 2: layer 3: no such tensor");
  EXPECT_EQ(fake.world.num_alive, 0);
  EXPECT_EQ(fake.world.abort_reason, "rank 2: layer 3: no such tensor");
}

TEST(StartTest, ARankThatWaitsForOneThatCannotStartIsNotBlamed) {
  FakePipeline fake({.tp_size = 2});
  fake.world.on_call = [&](int rank, const std::string&, int64_t) {
    WEFT_CHECK(rank != 1, "out of memory");
    while (!fake.world.aborted) std::this_thread::yield();
    WEFT_THROW("exchange_pointers was aborted");
  };
  EXPECT_EQ(error_of([&] { fake.start(); }), "rank 1: out of memory");
}

TEST(CloseTest, EndsThreadsThatWaitForPeersInAStep) {
  FakePipeline fake({.tp_size = 2});
  fake.world.on_call = [&](int, const std::string& call, int64_t) {
    while (call == "collect" && !fake.world.aborted) std::this_thread::yield();
  };
  fake.start();
  const uint64_t ticket = fake.pipeline->submit({.admissions = {admission(1, {4}, 2)}, .prefill = {{1, 1}}});
  std::string message;
  std::thread waiter([&] { message = error_of([&] { fake.pipeline->wait(ticket); }); });
  while (fake.world.num_alive < 2) std::this_thread::yield();
  fake.pipeline->close();
  waiter.join();
  EXPECT_THAT(message, HasSubstr("closed"));
  EXPECT_EQ(fake.world.num_alive, 0);
  EXPECT_THAT(error_of([&] { fake.pipeline->submit({}); }), HasSubstr("closed"));
  fake.pipeline->close();  // twice is legal
}

TEST(CloseTest, LeavesBehindARankThatHangsAndNamesIt) {
  std::mutex mutex;
  std::condition_variable released;
  bool release = false;
  FakePipeline fake({.tp_size = 2, .timeout = std::chrono::milliseconds(50)});
  fake.world.on_call = [&](int rank, const std::string& call, int64_t) {
    if (call != "collect" || rank != 1) return;
    std::unique_lock lock(mutex);
    released.wait(lock, [&] { return release; });  // deaf to aborts
  };
  fake.start();
  const uint64_t ticket = fake.pipeline->submit({.admissions = {admission(1, {4}, 2)}, .prefill = {{1, 1}}});
  EXPECT_THAT(error_of([&] { fake.pipeline->wait(ticket); }),
              StartsWith("step 1: rank 1 did not finish within 100 ms"));
  EXPECT_THAT(error_of([&] { fake.pipeline->close(); }), HasSubstr("1 did not end within 2000 ms"));
  // Its peers' memory stays as long as it may read it.
  EXPECT_EQ(fake.world.num_alive, 2);
  {
    const std::lock_guard lock(mutex);
    release = true;
  }
  released.notify_all();
  while (fake.world.num_alive > 0) std::this_thread::yield();
}

}  // namespace
}  // namespace weft::runtime
