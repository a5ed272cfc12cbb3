// Streams and events, on any backend.
#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/backend.h"

namespace weft::device {
namespace {

TEST_P(ConformanceTest, RunsTheOpsOfAStreamInOrder) {
  auto stream = device->make_stream("compute");
  const Buffer data = zeros(4, "data");
  uint32_t expected = 0;
  for (int32_t i = 1; i <= 2000; ++i) {
    backend.affine(*stream, ints(data), 3, i);
    expected = expected * 3 + static_cast<uint32_t>(i);
  }
  EXPECT_EQ(static_cast<uint32_t>(first(*stream, data)), expected);
}

TEST_P(ConformanceTest, EnqueuingDoesNotWaitForTheOp) {
  auto stream = device->make_stream("compute");
  Gate gate(*device);
  const Buffer data = zeros(1, "data");
  backend.hold(*stream, gate.view());
  backend.affine(*stream, ints(data), 1, 7);
  auto event = device->make_event();
  stream->record(*event);
  EXPECT_FALSE(event->query());
  gate.open();
  event->wait_idle(kLong);
  EXPECT_TRUE(event->query());
  EXPECT_EQ(first(*stream, data), 7);
}

TEST_P(ConformanceTest, ABlockedStreamDoesNotHoldAnother) {
  if (!backend.concurrent()) GTEST_SKIP() << "ops run one at a time";
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  Gate gate(*device);
  const Buffer data = zeros(1, "data");
  backend.hold(*a, gate.view());
  backend.affine(*b, ints(data), 1, 5);
  EXPECT_EQ(first(*b, data), 5);
  auto event = device->make_event();
  a->record(*event);
  EXPECT_FALSE(event->query());
  gate.open();
  a->wait_idle(kLong);
}

TEST_P(ConformanceTest, AWaitOrdersTwoStreams) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto event = device->make_event();
  Gate gate(*device);
  const Buffer data = zeros(1, "data");
  backend.hold(*a, gate.view());
  backend.affine(*a, ints(data), 1, 5);
  a->record(*event);
  b->wait(*event);
  backend.affine(*b, ints(data), 10, 0);
  gate.open();
  EXPECT_EQ(first(*b, data), 50);
}

TEST_P(ConformanceTest, AWaitMeansTheRecordBeforeItNotALaterOne) {
  if (!backend.concurrent()) GTEST_SKIP() << "ops run one at a time";
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto event = device->make_event();
  Gate gate(*device);
  const Buffer data = zeros(1, "data");
  a->record(*event);
  b->wait(*event);
  backend.hold(*a, gate.view());
  a->record(*event);  // moves the event behind the closed gate
  backend.affine(*b, ints(data), 1, 9);
  EXPECT_EQ(first(*b, data), 9);
  EXPECT_FALSE(event->query());
  gate.open();
  a->wait_idle(kLong);
}

TEST_P(ConformanceTest, AnEventThatMovesToAnotherStreamMeansThatStream) {
  if (!backend.concurrent()) GTEST_SKIP() << "ops run one at a time";
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto event = device->make_event();
  Gate gate(*device);
  backend.hold(*a, gate.view());
  a->record(*event);
  EXPECT_FALSE(event->query());
  b->record(*event);
  event->wait_idle(kLong);
  EXPECT_TRUE(event->query());
  gate.open();
  a->wait_idle(kLong);
}

TEST_P(ConformanceTest, AnEventThatWasNeverRecordedIsReached) {
  auto stream = device->make_stream("compute");
  auto event = device->make_event();
  EXPECT_TRUE(event->query());
  event->wait_idle(kShort);
  stream->wait(*event);
  stream->wait_idle(kLong);
}

TEST_P(ConformanceTest, WorkMayBeLeftToAStreamThatIsDestroyed) {
  const Buffer data = zeros(1, "data");
  auto event = device->make_event();
  auto b = device->make_stream("b");
  {
    auto a = device->make_stream("a");
    backend.affine(*a, ints(data), 1, 3);
    a->record(*event);
    b->wait(*event);
  }
  backend.affine(*b, ints(data), 2, 0);
  EXPECT_TRUE(event->query());
  EXPECT_EQ(first(*b, data), 6);
}

TEST_P(ConformanceTest, ATimeoutNamesStreamAndOp) {
  auto stream = device->make_stream("compute");
  auto event = device->make_event();
  Gate gate(*device);
  backend.hold(*stream, gate.view());
  stream->record(*event);
  expect_error([&] { stream->wait_idle(kShort); }, {"dev:0 compute", "30 ms", "hold"});
  expect_error([&] { event->wait_idle(kShort); }, {"dev:0 compute", "30 ms", "hold"});
  gate.open();
  stream->wait_idle(kLong);  // a timeout is not a failure
}

TEST_P(ConformanceTest, ManyStreamsThroughRandomEventsGiveTheResultOfProgramOrder) {
  // Stream s owns buffer s; a mix from another stream's buffer is fenced by events on both sides.
  constexpr int kStreams = 4;
  uint64_t state = 12345;
  const auto random = [&](int n) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<int>((state >> 33) % static_cast<uint64_t>(n));
  };
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<Buffer> buffers;
  uint32_t expected[kStreams] = {};
  for (int s = 0; s < kStreams; ++s) {
    streams.push_back(device->make_stream(fmt::format("s{}", s)));
    buffers.push_back(zeros(16, fmt::format("b{}", s)));
  }
  std::vector<std::unique_ptr<Event>> events;
  for (int step = 0; step < 1500; ++step) {
    const int s = random(kStreams);
    const int other = random(kStreams);
    if (other == s) {
      backend.affine(*streams[s], ints(buffers[s]), 5, step);
      expected[s] = expected[s] * 5 + static_cast<uint32_t>(step);
      continue;
    }
    events.push_back(device->make_event());
    streams[other]->record(*events.back());
    streams[s]->wait(*events.back());
    backend.mix(*streams[s], ints(buffers[s]), ints(buffers[other]));
    expected[s] = expected[s] * 3 + expected[other];
    events.push_back(device->make_event());
    streams[s]->record(*events.back());
    streams[other]->wait(*events.back());
  }
  for (int s = 0; s < kStreams; ++s) {
    EXPECT_EQ(static_cast<uint32_t>(first(*streams[s], buffers[s])), expected[s]) << "stream " << s;
  }
}

TEST_P(ConformanceTest, CopiesAndFillsAnySize) {
  auto stream = device->make_stream("compute");
  for (const size_t n : {size_t{0}, size_t{1}, size_t{63}, size_t{4096}, size_t{3000001}}) {
    const Buffer a = device->allocate(n, "a");
    const Buffer b = device->allocate_host(n, "b");
    stream->fill(a.data(), 0x5a, n);
    stream->copy(b.data(), a.data(), n);
    stream->wait_idle(kLong);
    const auto* bytes = static_cast<const uint8_t*>(b.data());
    EXPECT_TRUE(std::all_of(bytes, bytes + n, [](uint8_t byte) { return byte == 0x5a; })) << n << " bytes";
  }
}

TEST_P(ConformanceTest, ATraceTellsWhatRanWhereAndWhenAlsoInReplays) {
  auto stream = device->make_stream("compute");
  const Buffer data = zeros(1, "data");
  stream->set_tag(1);
  stream->begin_capture();
  backend.affine(*stream, ints(data), 1, 1);
  auto graph = stream->end_capture();
  stream->replay(*graph);
  stream->wait_idle(kLong);
  device->start_trace();
  stream->replay(*graph);
  stream->set_tag(0);
  backend.mix(*stream, ints(data), ints(data));
  stream->wait_idle(kLong);
  const auto spans = device->take_trace();
  ASSERT_EQ(spans.size(), 2U);
  EXPECT_EQ(spans[0].stream, "compute");
  EXPECT_EQ(spans[0].name, "affine");
  EXPECT_EQ(spans[0].tag, 1);
  EXPECT_EQ(spans[1].name, "mix");
  EXPECT_EQ(spans[1].tag, 0);
  EXPECT_LE(spans[0].start_us, spans[0].end_us);
  EXPECT_LE(spans[0].end_us, spans[1].start_us);
  backend.affine(*stream, ints(data), 1, 1);
  stream->wait_idle(kLong);
  EXPECT_TRUE(device->take_trace().empty());
}

TEST_P(ConformanceTest, EventsBelongToTheirDevice) {
  auto other = backend.make_device("dev:1");
  auto stream = device->make_stream("compute");
  auto event = other->make_event();
  expect_error([&] { stream->wait(*event); }, {"another device"});
  expect_error([&] { stream->record(*event); }, {"another device"});
}

}  // namespace
}  // namespace weft::device
