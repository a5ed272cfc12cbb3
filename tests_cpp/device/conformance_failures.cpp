// Failures of ops, accesses outside live buffers, and memory, on any backend.
#include <gmock/gmock.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/backend.h"

namespace weft::device {
namespace {

TEST_P(ConformanceTest, AFailureNamesDeviceStreamAndOpToEveryWait) {
  auto a = device->make_stream("compute");
  auto b = device->make_stream("comm");
  auto event = device->make_event();
  EXPECT_EQ(device->failure(), "");
  backend.fail(*a, "gemm");
  a->record(*event);
  const std::string message = "dev:0 compute op 'gemm': boom";
  expect_error([&] { a->wait_idle(kLong); }, {message});
  expect_error([&] { b->wait_idle(kLong); }, {message});
  expect_error([&] { event->wait_idle(kLong); }, {message});
  expect_error([&] { (void)event->query(); }, {message});
  EXPECT_EQ(device->failure(), message);
}

TEST_P(ConformanceTest, TheHandlerHearsTheFirstFailureOnly) {
  std::mutex mutex;
  std::vector<std::string> heard;
  device->on_failure([&](const std::string& message) {
    const std::lock_guard lock(mutex);
    heard.push_back(message);
  });
  {
    auto stream = device->make_stream("compute");
    backend.fail(*stream, "first");
    backend.fail(*stream, "second");
    expect_error([&] { stream->wait_idle(kLong); }, {"'first'"});
  }
  const std::lock_guard lock(mutex);
  EXPECT_THAT(heard, ::testing::ElementsAre("dev:0 compute op 'first': boom"));
}

TEST_P(ConformanceTest, OpsBehindAFailureAreDroppedAndNobodyHangs) {
  const Buffer data = zeros(1, "data");
  {
    auto a = device->make_stream("a");
    auto b = device->make_stream("b");
    auto event = device->make_event();
    backend.fail(*a, "gemm");
    backend.affine(*a, ints(data), 1, 1);
    a->record(*event);
    b->wait(*event);
    backend.affine(*b, ints(data), 1, 1);
    expect_error([&] { b->wait_idle(kLong); }, {"'gemm'"});
    backend.affine(*b, ints(data), 1, 1);  // enqueued after the failure
  }                                        // streams empty themselves
  if (backend.drops_queued_ops()) {
    EXPECT_EQ(*ints(data).as<int32_t>(), 0);
  }
}

TEST_P(ConformanceTest, AFailureInsideAReplayNamesTheLane) {
  auto a = device->make_stream("compute");
  auto b = device->make_stream("comm");
  auto fork = device->make_event();
  auto join = device->make_event();
  const Buffer data = zeros(1, "data");
  a->begin_capture();
  a->record(*fork);
  b->wait(*fork);
  backend.fail(*b, "dispatch");
  b->record(*join);
  a->wait(*join);
  backend.affine(*a, ints(data), 1, 1);
  auto graph = a->end_capture();
  a->replay(*graph);
  a->replay(*graph);
  expect_error([&] { a->wait_idle(kLong); }, {"dev:0 comm op 'dispatch': boom"});
}

TEST_P(ConformanceTest, AWaitingHostHearsOfAFailureOnAnotherStream) {
  if (!backend.concurrent()) GTEST_SKIP() << "ops run one at a time";
  auto a = device->make_stream("a");
  auto b = device->make_stream("b");
  Gate gate(*device);
  backend.hold(*a, gate.view());
  backend.fail(*b, "gemm");
  expect_error([&] { a->wait_idle(kLong); }, {"dev:0 b op 'gemm': boom"});
  gate.open();
}

TEST_P(ConformanceTest, AnAccessOutsideLiveBuffersIsRefused) {
  auto stream = device->make_stream("compute");
  const Buffer data = zeros(16, "hidden");
  const TensorView all = ints(data);
  TensorView beyond = all;
  beyond.shape[0] = 17;
  expect_error([&] { backend.affine(*stream, beyond, 1, 1); },
               {"dev:0 compute op 'affine'", "[0, 68)", "'hidden'", "64"});
  TensorView tail = all.rows(10, 6);
  tail.shape[0] = 7;
  expect_error([&] { backend.affine(*stream, tail, 1, 1); }, {"[40, 68)", "'hidden'"});
  int32_t on_the_host = 0;
  expect_error([&] { backend.affine(*stream, make_view(&on_the_host, DType::kI32, {1}), 1, 1); },
               {"op 'affine'", "no live buffer"});
  expect_error([&] { stream->fill(nullptr, 0, 1); }, {"op 'fill'", "no live buffer"});
  expect_error([&] { stream->copy(all.data, all.rows(1, 4).data, 16); }, {"overlap"});
  backend.affine(*stream, all.rows(16, 0), 1, 1);  // empty: touches nothing
  EXPECT_EQ(first(*stream, data), 0);
}

TEST_P(ConformanceTest, ADestroyedBufferIsRefused) {
  auto stream = device->make_stream("compute");
  Buffer doomed = zeros(16, "doomed");
  const TensorView view = ints(doomed);
  backend.affine(*stream, view, 1, 1);  // its look-up is remembered
  stream->wait_idle(kLong);
  doomed = Buffer();
  EXPECT_EQ(doomed.data(), nullptr);
  expect_error([&] { backend.affine(*stream, view, 1, 1); }, {"op 'affine'"});
}

TEST_P(ConformanceTest, ManyBuffersComeAndGo) {
  auto stream = device->make_stream("compute");
  std::vector<Buffer> buffers;
  std::vector<uint32_t> expected;
  for (int i = 0; i < 300; ++i) {
    buffers.push_back(zeros(1 + i % 7, fmt::format("b{}", i)));
    expected.push_back(0);
    for (int k = 0; k < 3; ++k) {
      const size_t j = static_cast<size_t>(i * 31 + k * 17) % buffers.size();
      backend.affine(*stream, ints(buffers[j]), 3, i);
      expected[j] = expected[j] * 3 + static_cast<uint32_t>(i);
    }
    if (i % 5 == 4) {
      stream->wait_idle(kLong);
      buffers.erase(buffers.begin() + i / 5);
      expected.erase(expected.begin() + i / 5);
    }
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(static_cast<uint32_t>(first(*stream, buffers[i])), expected[i]) << buffers[i].name();
  }
}

TEST_P(ConformanceTest, BuffersKnowTheirNameSizeAndViews) {
  const Buffer buffer = device->allocate(100, "kv_cache");
  EXPECT_EQ(buffer.name(), "kv_cache");
  EXPECT_EQ(buffer.num_bytes(), 100U);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0U);
  EXPECT_EQ(buffer.view(DType::kF32, {5, 5}).describe(), "f32[5, 5]");
  EXPECT_EQ(buffer.view(DType::kU8, {4}, 96).data, static_cast<std::byte*>(buffer.data()) + 96);
  expect_error([&] { (void)buffer.view(DType::kF32, {26}); }, {"'kv_cache'", "100", "f32[26]", "104"});
  expect_error([&] { (void)buffer.view(DType::kF32, {1}, 100); }, {"'kv_cache'"});
  expect_error([&] { (void)buffer.view(DType::kF32, {1}, 2); }, {"not aligned"});
  const Buffer empty = device->allocate(0, "empty");
  EXPECT_EQ(empty.num_bytes(), 0U);
  EXPECT_EQ(empty.view(DType::kF32, {0, 4}).numel(), 0);
}

TEST_P(ConformanceTest, TheLedgerCountsWhatIsAllocated) {
  const size_t before = device->memory().allocated_bytes;
  {
    const Buffer a = device->allocate(5 << 20, "a");
    const Buffer b = device->allocate(100, "b");
    EXPECT_EQ(device->memory().allocated_bytes, before + (5 << 20) + 100);
  }
  const MemoryInfo memory = device->memory();
  EXPECT_EQ(memory.allocated_bytes, before);
  EXPECT_GT(memory.total_bytes, 0U);
  EXPECT_LE(memory.free_bytes, memory.total_bytes);
  expect_error([&] { (void)device->allocate(memory.total_bytes + 1, "too_much"); },
               {"dev:0", "'too_much'", std::to_string(memory.total_bytes + 1)});
}

}  // namespace
}  // namespace weft::device
