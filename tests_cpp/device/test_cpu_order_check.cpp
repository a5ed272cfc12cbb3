// The proof of checked builds that nothing unordered passes, and its history.
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/cpu/access_history.h"
#include "device/cpu_backend.h"
#include "device/program.h"

namespace weft::device {
namespace {

using cpu::AccessHistory;

class OrderCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cpu::kChecked) GTEST_SKIP() << "needs a build with WEFT_CHECKED";
  }

  [[nodiscard]] TensorView x(int64_t begin = 0, int64_t count = 64) const {
    return x_.view(DType::kI32, {64}).rows(begin, count);
  }
  [[nodiscard]] TensorView y() const { return y_.view(DType::kI32, {64}); }
  /// x += 1 (a write) and y = 3 * y + x (a read of x) on a stream.
  void write_x(Stream& stream) const { backend_.affine(stream, x(), 1, 1); }
  void read_x(Stream& stream) const { backend_.mix(stream, y(), x()); }

  const CpuBackend backend_{CpuOptions{}};
  std::unique_ptr<Device> device_ = backend_.make_device("cpu:0");
  Buffer x_ = device_->allocate(256, "hidden");
  Buffer y_ = device_->allocate(256, "residual");
  Buffer z_ = device_->allocate(256, "other");
  std::unique_ptr<Stream> a_ = device_->make_stream("compute");
  std::unique_ptr<Stream> b_ = device_->make_stream("comm");
  std::unique_ptr<Event> event_ = device_->make_event();
};

TEST_F(OrderCheckTest, AReadOfAnUnorderedWriteNamesBothOpsStreamsAndTheBuffer) {
  write_x(*a_);
  expect_error([&] { read_x(*b_); }, {"cpu:0 comm op 'mix' reads", "[0, 256)", "'hidden'",
                                      "op 'affine' of stream 'compute' writes"});
}

TEST_F(OrderCheckTest, AWriteOverAnUnorderedReadOrWriteIsRefused) {
  read_x(*a_);
  expect_error([&] { write_x(*b_); }, {"comm op 'affine' writes", "op 'mix' of stream 'compute' reads"});
  backend_.affine(*a_, z_.view(DType::kI32, {64}), 1, 1);
  expect_error([&] { b_->fill(z_.data(), 0, 8); }, {"op 'fill' writes", "[0, 8)", "'other'", "'affine'"});
}

TEST_F(OrderCheckTest, ReadsAndDisjointWritesNeedNoOrder) {
  const TensorView z = z_.view(DType::kI32, {64});
  backend_.mix(*a_, y(), x());
  backend_.mix(*b_, z.rows(0, 32), x(0, 32));
  backend_.affine(*a_, z.rows(32, 32), 1, 1);
  backend_.affine(*b_, z.rows(0, 32), 1, 1);
}

TEST_F(OrderCheckTest, AnEventOrdersWhatCameBeforeItsRecord) {
  write_x(*a_);
  a_->record(*event_);
  b_->wait(*event_);
  read_x(*b_);
}

TEST_F(OrderCheckTest, AnEventSaysNothingOfWhatCameAfterItsRecord) {
  a_->record(*event_);
  write_x(*a_);
  b_->wait(*event_);
  expect_error([&] { read_x(*b_); }, {"nothing orders"});
}

TEST_F(OrderCheckTest, OrderPassesFromStreamToStream) {
  auto c = device_->make_stream("third");
  auto second = device_->make_event();
  write_x(*a_);
  a_->record(*event_);
  c->wait(*event_);
  c->record(*second);
  b_->wait(*second);
  read_x(*b_);
}

TEST_F(OrderCheckTest, AHostThatWaitedOrdersToo) {
  write_x(*a_);
  a_->wait_idle(kLong);
  read_x(*b_);
  b_->record(*event_);
  event_->wait_idle(kLong);
  write_x(*a_);
  a_->record(*event_);
  while (!event_->query()) {
  }
  read_x(*b_);
  b_.reset();  // a destroyed stream is empty
  write_x(*a_);
}

TEST_F(OrderCheckTest, ARefusedOpLeavesNoTrace) {
  write_x(*a_);
  expect_error([&] { read_x(*b_); }, {"nothing orders"});
  a_->record(*event_);
  b_->wait(*event_);
  read_x(*b_);
  b_->wait_idle(kLong);
}

TEST_F(OrderCheckTest, AMissingEventIsCaughtInsideACapture) {
  auto fork = device_->make_event();
  a_->begin_capture();
  a_->record(*fork);
  b_->wait(*fork);
  write_x(*a_);
  expect_error([&] { read_x(*b_); }, {"comm op 'mix' reads", "op 'affine' of stream 'compute' writes"});
  a_->record(*event_);
  b_->wait(*event_);
  read_x(*b_);
  b_->record(*fork);
  a_->wait(*fork);
  (void)a_->end_capture();
}

TEST_F(OrderCheckTest, AReplayCountsAsOneOpWithAllItsAccesses) {
  a_->begin_capture();
  write_x(*a_);
  backend_.affine(*a_, y(), 1, 1);
  auto graph = a_->end_capture();
  read_x(*b_);
  expect_error([&] { a_->replay(*graph); },
               {"compute op 'affine' writes", "'hidden'", "op 'mix' of stream 'comm' reads"});
  b_->record(*event_);
  a_->wait(*event_);
  a_->replay(*graph);
  expect_error([&] { read_x(*b_); }, {"comm op 'mix'", "op 'affine' of stream 'compute' writes"});
  a_->record(*event_);
  b_->wait(*event_);
  read_x(*b_);
}

TEST_F(OrderCheckTest, RunsOfOneGraphAreOrderedButNotThoseOfTwo) {
  a_->begin_capture();
  write_x(*a_);
  auto graph = a_->end_capture();
  a_->begin_capture();
  write_x(*a_);
  auto same_work = a_->end_capture();
  a_->replay(*graph);
  b_->replay(*graph);
  a_->replay(*graph);
  expect_error([&] { b_->replay(*same_work); }, {"'affine'", "nothing orders"});
}

TEST_F(OrderCheckTest, ABufferDestroyedUnderAnOpFailsTheDevice) {
  Gate gate(*device_);
  Buffer doomed = device_->allocate(64, "workspace");
  backend_.hold(*a_, gate.view());
  a_->fill(doomed.data(), 1, 64);
  doomed = Buffer();
  gate.open();
  const std::string failure = device_->failure();
  expect_error([&] { a_->wait_idle(kLong); }, {"'workspace'", "op 'fill' of stream 'compute'", "destroyed"});
}

TEST_F(OrderCheckTest, EveryDroppedWaitIsCaughtEagerAndInCapture) {
  for (const bool captured : {false, true}) {
    int64_t num_waits = 0;
    for (int64_t drop = -1; drop <= Pipeline::kWaits; ++drop) {
      const CpuBackend backend({.drop_wait = drop});
      auto device = backend.make_device("cpu:0");
      const Buffer x = device->allocate(64, "x");
      const Buffer y = device->allocate(64, "y");
      Pipeline pipeline(backend, *device);
      std::string error;
      try {
        if (captured) pipeline.a->begin_capture();
        pipeline.run(x.view(DType::kI32, {16}), y.view(DType::kI32, {16}));
        if (captured) (void)pipeline.a->end_capture();
      } catch (const Error& caught) {
        error = caught.what();
      }
      if (drop == -1) num_waits = cpu_num_waits(*device);
      const bool must_fail = drop >= 0 && drop < Pipeline::kWaits;
      EXPECT_EQ(!error.empty(), must_fail)
          << (captured ? "captured" : "eager") << ", wait " << drop << ": " << error;
    }
    EXPECT_EQ(num_waits, Pipeline::kWaits);
  }
}

// The history itself, in every build.

using Record = std::shared_ptr<BufferRecord>;

TEST(AccessHistoryTest, AgreesWithAMemoryOfEveryByte) {
  constexpr uint32_t kAgents = 3;
  constexpr size_t kBytes = 40;
  struct ByteUse {
    uint32_t agent;
    uint64_t position;
    bool write;
  };
  int num_conflicts = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    AccessHistory history;
    for (uint32_t agent = 0; agent < kAgents; ++agent) history.add_agent(fmt::format("s{}", agent));
    const Record buffer = std::make_shared<BufferRecord>(4096, kBytes, "b");
    std::vector<std::vector<ByteUse>> bytes(kBytes);
    std::vector<Clock> clocks(kAgents);
    std::vector<uint64_t> positions(kAgents, 0);
    for (int step = 0; step < 300; ++step) {
      const auto agent = static_cast<uint32_t>(random() % kAgents);
      if (random() % 3 == 0) {  // an event from another stream
        const auto from = static_cast<uint32_t>(random() % kAgents);
        Clock snapshot = clocks[from];
        advance(snapshot, from, positions[from]);
        join(clocks[agent], snapshot);
      }
      const size_t begin = random() % kBytes;
      const size_t end = begin + 1 + random() % (kBytes - begin);
      const bool write = random() % 3 == 0;
      bool conflict = false;
      for (size_t i = begin; i < end; ++i) {
        for (const ByteUse& use : bytes[i]) {
          conflict |=
              use.agent != agent && (use.write || write) && use.position > clock_at(clocks[agent], use.agent);
        }
      }
      bool refused = false;
      try {
        history.add(agent, positions[agent] + 1, clocks[agent], {buffer, begin, end, write, "op"}, "here");
      } catch (const Error&) {
        refused = true;
      }
      ASSERT_EQ(refused, conflict) << "seed " << seed << ", step " << step;
      if (refused) {
        ++num_conflicts;
        continue;
      }
      ++positions[agent];
      for (size_t i = begin; i < end; ++i) bytes[i].push_back({agent, positions[agent], write});
    }
  }
  EXPECT_GT(num_conflicts, 1000);
}

TEST(AccessHistoryTest, DoesNotGrowWithTheNumberOfAccesses) {
  AccessHistory history;
  history.add_agent("s");
  const Record buffer = std::make_shared<BufferRecord>(4096, 1 << 20, "b");
  std::mt19937 random(1);
  Clock host;
  for (uint64_t i = 1; i <= 30000; ++i) {
    const size_t begin = random() % (1 << 20);
    history.add(0, i, {}, {buffer, begin, begin + 1, random() % 2 == 0, "op"}, "here");
    if (i % 1000 == 0) advance(host, 0, i);  // the host waits now and then
    history.prune(host);
    ASSERT_LE(history.num_intervals(), 12000U);
  }
  for (uint64_t i = 30001; i <= 60000; ++i) {  // always the same bytes, and nobody waits
    history.add(0, i, {}, {buffer, (i % 8) * 64, (i % 8) * 64 + 64, i % 3 == 0, "op"}, "here");
    history.prune(host);
  }
  EXPECT_LE(history.num_intervals(), 12000U);
}

TEST(AccessHistoryTest, CoalesceJoinsRangesOfEachKind) {
  const Record b1 = std::make_shared<BufferRecord>(4096, 100, "b1");
  const Record b2 = std::make_shared<BufferRecord>(8192, 100, "b2");
  const auto all = cpu::coalesce({{b1, 10, 20, false, "r"},
                                  {b2, 0, 100, true, "w"},
                                  {b1, 20, 30, false, "r"},
                                  {b1, 0, 5, false, "r"},
                                  {b1, 12, 14, true, "w"},
                                  {b1, 0, 11, false, "r"}});
  ASSERT_EQ(all.size(), 3U);
  for (const auto& access : all) {
    if (access.buffer == b2) {
      EXPECT_EQ(access.end - access.begin, 100U);
    } else if (access.write) {
      EXPECT_EQ(std::pair(access.begin, access.end), std::pair(size_t{12}, size_t{14}));
    } else {
      EXPECT_EQ(std::pair(access.begin, access.end), std::pair(size_t{0}, size_t{30}));
    }
  }
}

}  // namespace
}  // namespace weft::device
