// What goes into a step and comes out of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "ops/copy_words.h"
#include "ops/scatter_blocks.h"
#include "support/stream_ops.h"
#if WEFT_CUDA
#include "support/twin_ops.h"
#endif

namespace weft::ops {
namespace {

using test::HostTensor;
using test::StreamOps;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(ScatterBlocksTest, WritesTheNamedBlocksAndNoOther) {
  StreamOps ops;
  const TensorView out = ops.upload(HostTensor(DType::kI32, {3, 4}).fill(7));
  scatter_blocks(ops.stream(),
                 {.out = out,
                  .x = ops.upload(HostTensor(DType::kI32, {2, 4}).fill_from({1, 2, 3, 4, 5, 6, 7, 8})),
                  .indices = ops.upload(HostTensor(DType::kI32, {2}).fill_from({2, 0}))});
  const HostTensor result = ops.download(out);
  const std::vector<double> expected = {5, 6, 7, 8, 7, 7, 7, 7, 1, 2, 3, 4};
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(result.get(i), expected[static_cast<size_t>(i)]) << i;
}

TEST(ScatterBlocksTest, FailsOnAnIndexOutsideAndRefusesPartsOfBlocks) {
  for (const int index : {3, -1}) {
    StreamOps ops;
    scatter_blocks(ops.stream(), {.out = ops.upload(HostTensor(DType::kI32, {3, 4})),
                                  .x = ops.upload(HostTensor(DType::kI32, {1, 4})),
                                  .indices = ops.upload(HostTensor(DType::kI32, {1}).fill(index))});
    EXPECT_THAT([&] { ops.wait(); },
                ThrowsMessage<Error>(HasSubstr("scatter_blocks: indices[0]=" + std::to_string(index))));
  }
  StreamOps ops;
  const auto view = [](std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, DType::kI32, shape);
  };
  EXPECT_THAT(
      [&] {
        scatter_blocks(ops.stream(), {.out = view({3, 4}), .x = view({2, 3}), .indices = view({2})});
      },
      ThrowsMessage<Error>(HasSubstr("scatter_blocks: x is i32[2, 3]; its shape must be [2, 4]")));
}

TEST(CopyWordsTest, CopiesEachArrayAndRefusesPartsOfWords) {
  StreamOps ops;
  const TensorView a = ops.upload(HostTensor(DType::kI32, {3}).fill_from({1, 2, 3}));
  const TensorView b = ops.upload(HostTensor(DType::kI32, {2}).fill_from({4, 5}));
  const TensorView out = ops.upload(HostTensor(DType::kI32, {6}).fill(-1));
  auto* to = out.as<int32_t>();
  copy_words(ops.stream(), {.copies = {{{to + 3, a.data, 3}, {nullptr, nullptr, 0}, {to, b.data, 2}}}});
  const HostTensor result = ops.download(out);
  const std::vector<double> expected = {4, 5, -1, 1, 2, 3};
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(result.get(i), expected[static_cast<size_t>(i)]) << i;
  auto* odd = reinterpret_cast<char*>(to) + 1;
  EXPECT_THAT(
      [&] {
        copy_words(ops.stream(), {.copies = {{{odd, a.data, 1}}}});
      },
      ThrowsMessage<Error>(HasSubstr("expected whole words")));
}

TEST(StepIoTest, NothingToMoveIsNoOp) {
  StreamOps ops;
  const TensorView out = ops.upload(HostTensor(DType::kI32, {3, 4}));
  ops.stream().begin_capture();
  scatter_blocks(ops.stream(), {.out = out,
                                .x = device::make_view(nullptr, DType::kI32, {0, 4}),
                                .indices = device::make_view(nullptr, DType::kI32, {0})});
  copy_words(ops.stream(), {});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

#if WEFT_CUDA
using test::Side;
using CudaStepIoTest = test::CudaOpTest;

TEST_F(CudaStepIoTest, BlocksAreScattered) {
  for (const int64_t n : {1, 5, 129, 1000}) {
    auto indices = HostTensor(DType::kI32, {n});
    for (int64_t i = 0; i < n; ++i) indices.set(i, static_cast<double>((i * 7 + 3) % 1009));  // 1009 is prime
    const auto x = HostTensor(DType::kI32, {n, 4}).fill_integers(1, -1000, 1000);
    const auto out = HostTensor(DType::kI32, {1009, 4});
    test::expect_same_bits([&](Side& s) {
      scatter_blocks(s.stream(), {.out = s.out(out), .x = s.in(x), .indices = s.in(indices)});
    });
  }
  EXPECT_THAT(test::cuda_failure([&](Side& s) {
                scatter_blocks(s.stream(), {.out = s.in(HostTensor(DType::kI32, {3, 4})),
                                            .x = s.in(HostTensor(DType::kI32, {1, 4})),
                                            .indices = s.in(HostTensor(DType::kI32, {1}).fill(3))});
              }),
              HasSubstr("scatter_blocks: indices[0]=3"));
}

TEST_F(CudaStepIoTest, WordsAreCopied) {
  for (const int64_t n : {1, 130, 100000}) {
    const auto a = HostTensor(DType::kI32, {n}).fill_integers(2, -1000, 1000);
    const auto b = HostTensor(DType::kI32, {77}).fill_integers(3, -1000, 1000);
    const auto out = HostTensor(DType::kI32, {n + 80});
    test::expect_same_bits([&](Side& s) {
      auto* to = s.out(out).as<int32_t>();
      copy_words(s.stream(), {.copies = {{{to, s.in(b).data, 77}, {to + 79, s.in(a).data, n}}}});
    });
  }
}
#endif

}  // namespace
}  // namespace weft::ops
