#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/null/null_device.h"

namespace weft::device {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
constexpr std::chrono::milliseconds kTimeout{1000};

struct NoArgs {
  int value = 0;
};
void nothing(const NoArgs&, ExecContext&) { throw Error("an op of a null device ran"); }

class NullDeviceTest : public ::testing::Test {
 protected:
  explicit NullDeviceTest(NullOptions options = {}) : device_(make_null_device(std::move(options))) {
    a_ = device_->make_stream("a");
    b_ = device_->make_stream("b");
    event_ = device_->make_event();
    join_ = device_->make_event();
    buffer_ = device_->allocate(64, "buffer");
  }

  void launch(Stream& stream, std::string_view name, OpKind kind = OpKind::kCompute, int value = 0) {
    stream.launch<NoArgs>(name, nothing, NoArgs{value}, {write(buffer_.data(), buffer_.num_bytes())}, kind);
  }
  /// "stream name start end" of all that has run.
  std::vector<std::string> spans() {
    std::vector<std::string> lines;
    for (const OpSpan& span : device_->take_trace()) {
      lines.push_back(fmt::format("{} {} {} {}", span.stream, span.name, span.start_us, span.end_us));
    }
    return lines;
  }
  template <class Call>
  std::string error_of(Call&& call) {
    try {
      call();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  std::unique_ptr<NullDevice> device_;
  std::unique_ptr<Stream> a_, b_;
  std::unique_ptr<Event> event_, join_;
  Buffer buffer_;
};

TEST_F(NullDeviceTest, OpsTakeATickAndStreamsWaitForEvents) {
  device_->start_trace();
  b_->wait(*event_);  // never recorded: no wait
  launch(*a_, "first");
  launch(*a_, "second");
  a_->record(*event_);
  launch(*a_, "third");
  b_->wait(*event_);
  launch(*b_, "after_second");
  EXPECT_FALSE(event_->query());
  device_->advance();
  EXPECT_TRUE(event_->query());
  EXPECT_TRUE(device_->idle());
  EXPECT_THAT(spans(), ElementsAre("a first 0 1", "a second 1 2", "a third 2 3", "b after_second 2 3"));
}

TEST_F(NullDeviceTest, ACollectiveOpHoldsItsStreamAndWhoWaitsForItUntilItPasses) {
  launch(*a_, "meet", OpKind::kCollective, 7);
  a_->record(*event_);
  b_->wait(*event_);
  launch(*b_, "after");
  device_->advance();
  ASSERT_EQ(device_->arrivals().size(), 1U);
  const NullArrival arrival = device_->arrivals()[0];
  device_->arrivals().clear();
  EXPECT_EQ(static_cast<const NoArgs*>(arrival.op->args)->value, 7);
  EXPECT_FALSE(event_->query());
  EXPECT_EQ(device_->where(), "a at 'meet', b at a wait for a");
  EXPECT_THAT(error_of([&] { event_->wait_idle(kTimeout); }), HasSubstr("a at 'meet'"));
  EXPECT_THAT(error_of([&] { b_->wait_idle(kTimeout); }), HasSubstr("b at a wait for a"));
  EXPECT_THAT(error_of([&] { device_->forget(); }), HasSubstr("forget"));
  device_->pass(*arrival.lane, 5);
  device_->advance();
  EXPECT_TRUE(device_->idle());
  EXPECT_TRUE(device_->arrivals().empty());
}

TEST_F(NullDeviceTest, AGraphReplaysItsLanesAndHoldsTheStreamThatReplays) {
  a_->begin_capture();
  launch(*a_, "fork");
  a_->record(*event_);
  b_->wait(*event_);
  launch(*b_, "meet", OpKind::kCollective);
  b_->record(*join_);
  launch(*a_, "beside");
  a_->wait(*join_);
  launch(*a_, "end");
  const auto graph = a_->end_capture();
  EXPECT_THAT(graph->op_names(), ElementsAre("fork", "meet", "beside", "end"));
  EXPECT_TRUE(device_->enqueued().empty());
  device_->start_trace();
  for (int run = 0; run < 2; ++run) {
    a_->replay(*graph);
    launch(*a_, "behind");
    EXPECT_EQ(device_->enqueued().size(), 1U);
    device_->clear_enqueued();
    device_->advance();
    ASSERT_EQ(device_->arrivals().size(), 1U);
    EXPECT_THAT(device_->where(), HasSubstr("a in a replay (a at a wait for b, b at 'meet')"));
    device_->pass(*device_->arrivals()[0].lane, device_->arrivals()[0].time_us + 10);
    device_->arrivals().clear();
    device_->advance();
    EXPECT_TRUE(device_->idle());
  }
  EXPECT_THAT(spans(),
              ElementsAre("a fork 0 1", "a beside 1 2", "b meet 1 11", "a end 11 12", "a behind 12 13",
                          "a fork 13 14", "a beside 14 15", "b meet 14 24", "a end 24 25", "a behind 25 26"));
}

TEST_F(NullDeviceTest, KeepsTheContractOfCaptures) {
  a_->begin_capture();
  EXPECT_THAT(error_of([&] { launch(*b_, "op"); }), HasSubstr("captures"));
  launch(*a_, "op");
  a_->record(*event_);
  b_->wait(*event_);
  launch(*b_, "lost");
  EXPECT_THAT(error_of([&] { static_cast<void>(event_->query()); }), HasSubstr("capture"));
  EXPECT_THAT(error_of([&] { static_cast<void>(a_->end_capture()); }), HasSubstr("not joined back"));
  EXPECT_FALSE(a_->is_capturing());
  EXPECT_FALSE(b_->is_capturing());
  launch(*b_, "free again");
  device_->advance();
  EXPECT_TRUE(device_->idle());
}

TEST_F(NullDeviceTest, AccessesLieInLiveBuffers) {
  const auto* end = static_cast<const char*>(buffer_.data()) + buffer_.num_bytes();
  EXPECT_THAT(error_of([&] { a_->launch<NoArgs>("op", nothing, {}, {read(end - 4, 8)}); }),
              HasSubstr("'buffer'"));
  a_->begin_capture();
  launch(*a_, "op");
  const auto graph = a_->end_capture();
  buffer_ = Buffer();
  EXPECT_THAT(error_of([&] { a_->replay(*graph); }), HasSubstr("destroyed"));
  EXPECT_THAT(error_of([&] { a_->copy(const_cast<char*>(end), end - 8, 8); }), HasSubstr("no live buffer"));
}

TEST_F(NullDeviceTest, MemoryIsReservedAndHoldsWhatTheHostWrites) {
  const Buffer huge = device_->allocate(size_t{1} << 33, "huge");
  auto* bytes = static_cast<char*>(huge.data());
  bytes[(size_t{1} << 33) - 1] = 3;
  EXPECT_EQ(bytes[(size_t{1} << 33) - 1], 3);
  EXPECT_EQ(device_->memory().allocated_bytes, (size_t{1} << 33) + 64);
}

class OrderedNullDeviceTest : public NullDeviceTest {
 protected:
  explicit OrderedNullDeviceTest(int64_t drop_wait = -1)
      : NullDeviceTest({.check_order = true, .drop_wait = drop_wait}) {}

  void write_on_both() {
    launch(*a_, "first");
    a_->record(*event_);
    b_->wait(*event_);
    launch(*b_, "second");
  }
};
class DroppingNullDeviceTest : public OrderedNullDeviceTest {
 protected:
  DroppingNullDeviceTest() : OrderedNullDeviceTest(0) {}
};

TEST_F(OrderedNullDeviceTest, AllowsConflictsThatAnEventOrders) {
  write_on_both();
  EXPECT_EQ(device_->num_waits(), 1);
  b_->wait_idle(kTimeout);
  launch(*a_, "after the host has waited");
}

TEST_F(DroppingNullDeviceTest, FindsADroppedWait) {
  EXPECT_THAT(error_of([&] { write_on_both(); }), HasSubstr("nothing orders the two"));
}

}  // namespace
}  // namespace weft::device
