// Random legal orders: they differ, they are legal, and a seed repeats its order.
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "device/backend.h"

namespace weft::device {
namespace {

struct NoteArgs {
  int32_t* log;  // [0] counts, then the entries
  int32_t value;
};

void note(const NoteArgs& args, ExecContext& /*context*/) { args.log[++args.log[0]] = args.value; }

/// Runs three streams of five ops (the last ones ordered by an event); returns the order in which they ran.
std::vector<int32_t> order_of(uint64_t seed, bool captured) {
  auto device = make_cpu_device({.random_order = seed});
  const Buffer log = device->allocate(64 * sizeof(int32_t), "log");
  auto* entries = log.view(DType::kI32, {64}).as<int32_t>();
  entries[0] = 0;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int s = 0; s < 3; ++s) streams.push_back(device->make_stream(fmt::format("s{}", s)));
  std::vector<std::unique_ptr<Event>> events;
  const auto hand_over = [&](int from, int to) {
    events.push_back(device->make_event());
    streams[from]->record(*events.back());
    streams[to]->wait(*events.back());
  };
  if (captured) {
    streams[0]->begin_capture();
    hand_over(0, 1);
    hand_over(0, 2);
  }
  for (int i = 0; i < 5; ++i) {
    for (int s = 0; s < 3; ++s) {
      if (i == 4 && s == 1) hand_over(0, 1);  // op 4 of stream 1 comes after op 4 of stream 0
      // No accesses are declared: the log is what tests look at, not what the ops are about.
      streams[s]->launch<NoteArgs>("note", note, {entries, s * 10 + i}, std::initializer_list<Access>{});
    }
  }
  hand_over(1, 0);
  hand_over(2, 0);
  if (captured) {
    auto graph = streams[0]->end_capture();
    streams[0]->replay(*graph);
  }
  streams[0]->wait_idle(kLong);
  return {entries + 1, entries + 1 + entries[0]};
}

TEST(CpuRandomOrderTest, OrdersAreLegalAndManyAndRepeatWithTheirSeed) {
  for (const bool captured : {false, true}) {
    std::set<std::vector<int32_t>> orders;
    for (uint64_t seed = 1; seed <= 24; ++seed) {
      const auto order = order_of(seed, captured);
      ASSERT_EQ(order.size(), 15U);
      std::vector<int> next(3, 0);
      for (const int32_t entry : order) {
        EXPECT_EQ(entry % 10, next[entry / 10]++) << "seed " << seed;
        if (entry == 14) {
          EXPECT_EQ(next[0], 5) << "the event is ignored by seed " << seed;
        }
      }
      orders.insert(order);
      if (captured) {
        EXPECT_EQ(order_of(seed, captured), order) << "seed " << seed;
      }
    }
    EXPECT_GE(orders.size(), 12U);
  }
}

struct CountArgs {
  std::atomic<int32_t>* running;
};

TEST(CpuRandomOrderTest, ComputeOpsRunOneAtATime) {
  auto device = make_cpu_device({.random_order = 5});
  const Buffer memory = device->allocate(sizeof(std::atomic<int32_t>), "running");
  auto* running = new (memory.data()) std::atomic<int32_t>(0);
  std::vector<std::unique_ptr<Stream>> streams;
  for (int s = 0; s < 4; ++s) streams.push_back(device->make_stream(fmt::format("s{}", s)));
  for (int i = 0; i < 40; ++i) {
    streams[i % 4]->launch<CountArgs>(
        "count",
        [](const CountArgs& args, ExecContext&) {
          WEFT_CHECK(args.running->fetch_add(1) == 0, "two ops at a time");
          std::this_thread::sleep_for(std::chrono::microseconds(50));
          args.running->fetch_sub(1);
        },
        {running}, std::initializer_list<Access>{});
  }
  for (const auto& stream : streams) stream->wait_idle(kLong);
}

struct MeetArgs {
  std::atomic<int32_t>* here;
  int32_t number;
};

void meet(const MeetArgs& args, ExecContext& /*context*/) {
  args.here->fetch_add(1);
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (args.here->load() < args.number) {
    WEFT_CHECK(std::chrono::steady_clock::now() < deadline, "alone at the meeting");
    std::this_thread::yield();
  }
}

TEST(CpuRandomOrderTest, CollectivesHoldNobodyBack) {
  // Each collective waits until both streams are in theirs, and a compute op of the second stream comes
  // first.
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    auto device = make_cpu_device({.random_order = seed});
    const Buffer memory = device->allocate(sizeof(std::atomic<int32_t>), "here");
    auto* here = new (memory.data()) std::atomic<int32_t>(0);
    auto a = device->make_stream("a");
    auto b = device->make_stream("b");
    a->launch<MeetArgs>("meet", meet, {here, 3}, std::initializer_list<Access>{}, OpKind::kCollective);
    b->launch<MeetArgs>("note", meet, {here, 0}, std::initializer_list<Access>{});
    b->launch<MeetArgs>("meet", meet, {here, 3}, std::initializer_list<Access>{}, OpKind::kCollective);
    a->wait_idle(kLong);
    b->wait_idle(kLong);
  }
}

TEST(CpuRandomOrderTest, AHostThatNeverWaitsStillSeesTheWorkDone) {
  auto device = make_cpu_device({.random_order = 3});
  Gate gate(*device);
  auto stream = device->make_stream("s");
  struct OpenArgs {
    int32_t* gate;
  };
  stream->launch<OpenArgs>("open",
                           [](const OpenArgs& args, ExecContext&) { std::atomic_ref(*args.gate).store(1); },
                           {gate.view().as<int32_t>()}, {write(gate.view())});
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (!gate.is_open()) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
}

}  // namespace
}  // namespace weft::device
