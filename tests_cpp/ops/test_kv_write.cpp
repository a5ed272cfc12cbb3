#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "ops/kv_write.h"
#include "support/stream_ops.h"

namespace weft::ops {
namespace {

using test::bit_equal;
using test::HostTensor;
using test::StreamOps;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(KvWriteTest, WritesColumnsOfTheSlotsAndNothingElse) {
  StreamOps ops;
  const auto src = HostTensor(DType::kBF16, {4, 3}, {7, 1}).fill_normal(3);
  HostTensor expected(DType::kBF16, {6, 8});
  const std::vector<int64_t> slots = {5, -1, 0, 2};
  for (int64_t t = 0; t < 4; ++t) {
    if (slots[t] < 0) continue;
    for (int64_t c = 0; c < 3; ++c) expected.set({slots[t], 4 + c}, src.at({t, c}));
  }
  const TensorView cache = ops.upload(HostTensor(DType::kBF16, {6, 8}));
  kv_write(ops.stream(), {.cache = cache,
                          .src = ops.upload(src),
                          .slots = ops.upload(HostTensor(DType::kI32, {4}).fill_from({5, -1, 0, 2})),
                          .column = 4});
  EXPECT_TRUE(bit_equal(ops.download(cache), expected));
}

TEST(KvWriteTest, FailsOnASlotOutside) {
  StreamOps ops;
  kv_write(ops.stream(), {.cache = ops.upload(HostTensor(DType::kF32, {6, 8})),
                          .src = ops.upload(HostTensor(DType::kF32, {2, 8})),
                          .slots = ops.upload(HostTensor(DType::kI32, {2}).fill_from({1, 6}))});
  EXPECT_THAT([&] { ops.wait(); },
              ThrowsMessage<Error>(HasSubstr("kv_write: slots[1]=6 is outside cache = f32[6, 8]")));
}

TEST(KvWriteTest, RejectsColumnsBeyondTheCache) {
  StreamOps ops;
  EXPECT_THAT(
      [&] {
        kv_write(ops.stream(), {.cache = device::make_view(nullptr, DType::kF32, {6, 8}),
                                .src = device::make_view(nullptr, DType::kF32, {2, 3}),
                                .slots = device::make_view(nullptr, DType::kI32, {2}),
                                .column = 6});
      },
      ThrowsMessage<Error>(HasSubstr("kv_write: columns [6, 9) are outside cache = f32[6, 8]")));
}

TEST(KvWriteTest, NoRowsIsNoOp) {
  StreamOps ops;
  ops.stream().begin_capture();
  kv_write(ops.stream(), {.cache = ops.upload(HostTensor(DType::kF32, {4, 3})),
                          .src = device::make_view(nullptr, DType::kF32, {0, 3}),
                          .slots = device::make_view(nullptr, DType::kI32, {0})});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

}  // namespace
}  // namespace weft::ops
