// Capture and replay, on any backend.
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/program.h"

namespace weft::device {
namespace {

TEST_P(ConformanceTest, ACaptureRunsNothingAndItsReplayRunsEverything) {
  auto stream = device->make_stream("compute");
  const Buffer data = zeros(8, "data");
  stream->begin_capture();
  EXPECT_TRUE(stream->is_capturing());
  backend.affine(*stream, ints(data), 2, 1);
  backend.affine(*stream, ints(data), 10, 3);
  stream->fill(data.data(), 0, 0);  // no bytes: no op
  auto graph = stream->end_capture();
  EXPECT_FALSE(stream->is_capturing());
  EXPECT_EQ(graph->num_ops(), 2U);
  EXPECT_EQ(graph->op_names(), (std::vector<std::string>{"affine", "affine"}));
  EXPECT_EQ(first(*stream, data), 0);
  stream->replay(*graph);
  EXPECT_EQ(first(*stream, data), 13);
  for (int i = 0; i < 3; ++i) stream->replay(*graph);
  uint32_t expected = 13;
  for (int i = 0; i < 3; ++i) expected = (expected * 2 + 1) * 10 + 3;
  EXPECT_EQ(static_cast<uint32_t>(first(*stream, data)), expected);
}

TEST_P(ConformanceTest, AStampTellsWhenAnOpBeganInEachReplay) {
  auto stream = device->make_stream("compute");
  const Buffer data = zeros(64, "data");
  const Buffer stamps = zeros(6, "stamps");
  auto* slots = static_cast<uint64_t*>(stamps.data());
  const auto host = device->allocate_host(stamps.num_bytes(), "host");
  const auto read_stamps = [&] {
    stream->copy(host.data(), stamps.data(), stamps.num_bytes());
    stream->wait_idle(kLong);
    const auto* read = static_cast<const uint64_t*>(host.data());
    return std::vector<uint64_t>(read, read + 3);
  };
  const auto run = [&] {
    stream->stamp_next(slots);
    backend.affine(*stream, ints(data), 2, 1);
    backend.affine(*stream, ints(data), 2, 1);
    stream->stamp_next(slots + 1);
    backend.mix(*stream, ints(data).rows(0, 32), ints(data).rows(32, 32));
    backend.affine(*stream, ints(data), 2, 1);  // marks nothing
  };
  run();
  const auto eager = read_stamps();
  EXPECT_GT(eager[0], 0U);
  EXPECT_GE(eager[1], eager[0]);
  EXPECT_EQ(eager[2], 0U);
  stream->begin_capture();
  run();
  const auto graph = stream->end_capture();
  EXPECT_EQ(read_stamps(), eager);
  auto before = eager;
  for (int i = 0; i < 2; ++i) {
    stream->replay(*graph);
    const auto now = read_stamps();
    EXPECT_GE(now[0], before[1]);
    EXPECT_GE(now[1], now[0]);
    before = now;
  }
}

TEST_P(ConformanceTest, ReplaysOfTwoStreamsEqualEagerRuns) {
  const Buffer x = zeros(64, "x");
  const Buffer y = zeros(64, "y");
  const Buffer graph_x = zeros(64, "graph_x");
  const Buffer graph_y = zeros(64, "graph_y");
  Pipeline program(backend, *device);
  program.a->begin_capture();
  program.run(ints(graph_x), ints(graph_y));
  EXPECT_TRUE(program.b->is_capturing());
  auto graph = program.a->end_capture();
  EXPECT_FALSE(program.b->is_capturing());
  for (int i = 0; i < 20; ++i) {
    program.run(ints(x), ints(y));
    program.a->replay(*graph);
  }
  EXPECT_EQ(first(*program.a, graph_x), first(*program.a, x));
  EXPECT_EQ(first(*program.a, graph_y), first(*program.a, y));
}

TEST_P(ConformanceTest, AReplayIsOneUnitInItsStreamAndForEvents) {
  const Buffer x = zeros(4, "x");
  const Buffer y = zeros(4, "y");
  Pipeline program(backend, *device);
  program.a->begin_capture();
  program.run(ints(x), ints(y));
  auto graph = program.a->end_capture();
  auto replayer = device->make_stream("replayer");  // not one that took part in the capture
  auto follower = device->make_stream("follower");
  auto event = device->make_event();
  replayer->fill(x.data(), 0, x.num_bytes());
  replayer->replay(*graph);
  replayer->record(*event);
  follower->wait(*event);
  backend.affine(*follower, ints(x), 0, 42);
  EXPECT_EQ(first(*follower, x), 42);
}

TEST_P(ConformanceTest, ArgumentsAreFrozenAtCapture) {
  auto stream = device->make_stream("compute");
  const Buffer data = zeros(1, "data");
  const Buffer other = zeros(1, "other");
  stream->begin_capture();
  {
    TensorView view = ints(data);
    int32_t addend = 5;
    backend.affine(*stream, view, 1, addend);
    view = ints(other);
    addend = 1000;
    (void)addend;
    (void)view;
  }
  auto graph = stream->end_capture();
  stream->replay(*graph);
  stream->replay(*graph);
  EXPECT_EQ(first(*stream, data), 10);
  EXPECT_EQ(first(*stream, other), 0);
}

TEST_P(ConformanceTest, RunsOfOneGraphFollowEachOtherOnWhateverStreams) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  const Buffer data = zeros(1024, "data");
  a->begin_capture();
  for (int i = 0; i < 10; ++i) backend.affine(*a, ints(data), 3, 1);
  auto graph = a->end_capture();
  uint32_t expected = 0;
  for (int run = 0; run < 40; ++run) {
    (run % 2 == 0 ? a : b)->replay(*graph);
    for (int i = 0; i < 10; ++i) expected = expected * 3 + 1;
  }
  a->wait_idle(kLong);
  EXPECT_EQ(static_cast<uint32_t>(first(*b, data)), expected);
}

TEST_P(ConformanceTest, LanesOfAReplayRunAtTheSameTime) {
  if (!backend.concurrent()) GTEST_SKIP() << "ops run one at a time";
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto fork = device->make_event();
  auto join = device->make_event();
  Gate gate(*device);
  const Buffer data = zeros(1, "data");
  Gate seen(*device);
  a->begin_capture();
  a->record(*fork);
  b->wait(*fork);
  backend.hold(*b, gate.view());
  b->record(*join);
  backend.affine(*a, ints(data), 1, 7);
  backend.signal(*a, seen.view());
  a->wait(*join);
  auto graph = a->end_capture();
  a->replay(*graph);
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (!seen.is_open()) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the held lane holds the other";
  }
  // Long enough for lane b to begin, which nothing tells.
  expect_error([&] { a->wait_idle(10 * kShort); }, {"dev:0 a", "graph", "lane 'b' in op 'hold'"});
  gate.open();
  a->wait_idle(kLong);
}

TEST_P(ConformanceTest, AGraphMayBeDestroyedWhileAReplayIsQueued) {
  auto stream = device->make_stream("compute");
  Gate gate(*device);
  const Buffer data = zeros(1, "data");
  backend.hold(*stream, gate.view());
  {
    auto recorder = device->make_stream("recorder");
    recorder->begin_capture();
    for (int i = 0; i < 100; ++i) backend.affine(*recorder, ints(data), 1, 1);
    auto graph = recorder->end_capture();
    stream->replay(*graph);
  }
  gate.open();
  EXPECT_EQ(first(*stream, data), 100);
}

TEST_P(ConformanceTest, AnEmptyGraphIsLegal) {
  auto stream = device->make_stream("compute");
  stream->begin_capture();
  auto graph = stream->end_capture();
  EXPECT_EQ(graph->num_ops(), 0U);
  stream->replay(*graph);
  stream->wait_idle(kLong);
}

TEST_P(ConformanceTest, ManyLanesAndGraphsAtOnce) {
  constexpr int kLanes = 6;
  std::vector<Buffer> buffers;
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Event>> events;
  for (int s = 0; s < kLanes; ++s) {
    streams.push_back(device->make_stream(fmt::format("s{}", s)));
    buffers.push_back(zeros(8, fmt::format("b{}", s)));
  }
  streams[0]->begin_capture();
  events.push_back(device->make_event());
  streams[0]->record(*events.back());
  for (int s = 1; s < kLanes; ++s) streams[s]->wait(*events[0]);
  for (int i = 0; i < 20; ++i) {
    for (int s = 0; s < kLanes; ++s) backend.affine(*streams[s], ints(buffers[s]), 3, s);
  }
  for (int s = 1; s < kLanes; ++s) {
    events.push_back(device->make_event());
    streams[s]->record(*events.back());
    streams[0]->wait(*events.back());
    backend.mix(*streams[0], ints(buffers[0]), ints(buffers[s]));
  }
  auto graph = streams[0]->end_capture();
  for (int i = 0; i < 30; ++i) streams[0]->replay(*graph);

  uint32_t expected[kLanes] = {};
  for (int i = 0; i < 30; ++i) {
    for (int k = 0; k < 20; ++k) {
      for (int s = 0; s < kLanes; ++s) expected[s] = expected[s] * 3 + static_cast<uint32_t>(s);
    }
    for (int s = 1; s < kLanes; ++s) expected[0] = expected[0] * 3 + expected[s];
  }
  for (int s = 0; s < kLanes; ++s) {
    EXPECT_EQ(static_cast<uint32_t>(first(*streams[0], buffers[s])), expected[s]) << "lane " << s;
  }
}

// Misuse.

TEST_P(ConformanceTest, CapturesBeginAndEndOnce) {
  auto a = device->make_stream("a");
  expect_error([&] { (void)a->end_capture(); }, {"dev:0 a", "not capturing"});
  a->begin_capture();
  expect_error([&] { a->begin_capture(); }, {"dev:0 a", "capturing already"});
  (void)a->end_capture();
  expect_error([&] { (void)a->end_capture(); }, {"not capturing"});
}

TEST_P(ConformanceTest, ACaptureEndsWhereItBegan) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto fork = device->make_event();
  auto join = device->make_event();
  a->begin_capture();
  a->record(*fork);
  b->wait(*fork);
  expect_error([&] { (void)b->end_capture(); }, {"dev:0 b", "where it began"});
  b->record(*join);
  a->wait(*join);
  (void)a->end_capture();
}

TEST_P(ConformanceTest, AStreamThatIsNotJoinedBackIsAnErrorAndEndsTheCapture) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("comm");
  auto fork = device->make_event();
  auto join = device->make_event();
  const Buffer data = zeros(1, "data");
  a->begin_capture();
  a->record(*fork);
  b->wait(*fork);
  b->record(*join);
  a->wait(*join);
  backend.affine(*b, ints(data), 1, 1);  // after the join
  expect_error([&] { (void)a->end_capture(); }, {"'comm'", "not joined back"});
  EXPECT_FALSE(a->is_capturing());
  EXPECT_FALSE(b->is_capturing());
  backend.affine(*b, ints(data), 1, 5);
  EXPECT_EQ(first(*b, data), 5);
}

TEST_P(ConformanceTest, TheHostMayNotWaitForACapture) {
  auto a = device->make_stream("a");
  auto event = device->make_event();
  a->begin_capture();
  a->record(*event);
  expect_error([&] { a->wait_idle(kLong); }, {"dev:0 a", "capturing"});
  expect_error([&] { event->wait_idle(kLong); }, {"inside a capture"});
  expect_error([&] { (void)event->query(); }, {"inside a capture"});
  (void)a->end_capture();
  expect_error([&] { event->wait_idle(kLong); }, {"inside a capture"});
  a->record(*event);
  event->wait_idle(kLong);
}

TEST_P(ConformanceTest, ACaptureMayNotDependOnWorkOutsideIt) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto outside = device->make_event();
  auto never = device->make_event();
  b->record(*outside);
  a->begin_capture();
  expect_error([&] { a->wait(*outside); }, {"dev:0 a", "recorded outside any capture"});
  expect_error([&] { a->wait(*never); }, {"dev:0 a", "never recorded"});
  (void)a->end_capture();
}

TEST_P(ConformanceTest, NobodyMayWaitForACaptureThatHasEnded) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto event = device->make_event();
  a->begin_capture();
  a->record(*event);
  (void)a->end_capture();
  expect_error([&] { b->wait(*event); }, {"dev:0 b", "capture that has ended"});
}

TEST_P(ConformanceTest, CapturesCannotBeMerged) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  auto event = device->make_event();
  a->begin_capture();
  b->begin_capture();
  a->record(*event);
  expect_error([&] { b->wait(*event); }, {"dev:0 b", "cannot be merged"});
  (void)a->end_capture();
  (void)b->end_capture();
}

TEST_P(ConformanceTest, AReplayIsNoPartOfACapture) {
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  a->begin_capture();
  auto graph = a->end_capture();
  a->begin_capture();
  expect_error([&] { a->replay(*graph); }, {"dev:0 a", "capturing"});
  expect_error([&] { b->replay(*graph); }, {"dev:0 b", "'a' is capturing"});
  (void)a->end_capture();
  b->replay(*graph);
}

TEST_P(ConformanceTest, AStreamTakesPartInACaptureThroughAnEventOnly) {
  auto a = device->make_stream("compute");
  auto b = device->make_stream("comm");
  auto fork = device->make_event();
  auto join = device->make_event();
  const Buffer data = zeros(1, "data");
  a->begin_capture();
  expect_error([&] { backend.affine(*b, ints(data), 1, 1); },
               {"dev:0 comm", "affine", "'compute' is capturing"});
  a->record(*fork);
  b->wait(*fork);
  backend.affine(*b, ints(data), 1, 1);
  b->record(*join);
  a->wait(*join);
  EXPECT_EQ(a->end_capture()->num_ops(), 1U);
  backend.affine(*b, ints(data), 1, 5);
  EXPECT_EQ(first(*b, data), 5);
}

TEST_P(ConformanceTest, AStreamDestroyedInACaptureSpoilsIt) {
  auto a = device->make_stream("a");
  auto event = device->make_event();
  const Buffer data = zeros(1, "data");
  a->begin_capture();
  a->record(*event);
  {
    auto b = device->make_stream("b");
    b->wait(*event);
    backend.affine(*b, ints(data), 1, 1);
  }
  expect_error([&] { (void)a->end_capture(); }, {"'b'", "destroyed"});
  auto b = device->make_stream("b");
  {
    auto origin = device->make_stream("origin");
    origin->begin_capture();
    origin->record(*event);
    b->wait(*event);
  }
  EXPECT_FALSE(b->is_capturing());
}

TEST_P(ConformanceTest, AGraphThatUsesADestroyedBufferIsNotReplayed) {
  auto a = device->make_stream("a");
  const Buffer kept = zeros(1, "kept");
  Buffer doomed = zeros(1, "kv_cache");
  a->begin_capture();
  backend.mix(*a, ints(kept), ints(doomed));
  auto graph = a->end_capture();
  a->replay(*graph);
  a->wait_idle(kLong);
  { const Buffer gone = std::move(doomed); }
  expect_error([&] { a->replay(*graph); }, {"dev:0", "'kv_cache'", "destroyed"});
  const Buffer same_place = zeros(1, "other");  // may get the same address; the graph is still stale
  expect_error([&] { a->replay(*graph); }, {"'kv_cache'"});
}

TEST_P(ConformanceTest, EventsMayBeDestroyedAfterACapture) {
  const Buffer x = zeros(4, "x");
  const Buffer y = zeros(4, "y");
  auto stream = device->make_stream("compute");
  std::unique_ptr<Graph> graph;
  {
    Pipeline program(backend, *device);
    program.a->begin_capture();
    program.run(ints(x), ints(y));
    graph = program.a->end_capture();
  }
  stream->replay(*graph);
  stream->wait_idle(kLong);
  EXPECT_NE(first(*stream, x), 0);
}

TEST_P(ConformanceTest, GraphsBelongToTheirDevice) {
  auto other = backend.make_device("dev:1");
  auto a = device->make_stream("a");
  auto b = other->make_stream("b");
  a->begin_capture();
  auto graph = a->end_capture();
  expect_error([&] { b->replay(*graph); }, {"dev:1 b", "another device"});
}

}  // namespace
}  // namespace weft::device
