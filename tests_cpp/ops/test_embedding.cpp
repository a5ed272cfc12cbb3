#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "ops/embedding.h"
#include "support/stream_ops.h"

namespace weft::ops {
namespace {

using test::HostTensor;
using test::near;
using test::StreamOps;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(EmbeddingTest, ShardsAddUpToTheWholeTable) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const auto table = HostTensor(dtype, {12, 7}).fill_normal(1);
    const auto ids = HostTensor(DType::kI32, {5}).fill_from({0, 11, 7, 8, 8});
    std::vector<double> sum(5 * 7, 0.0);
    std::vector<double> expected;
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t c = 0; c < 7; ++c) expected.push_back(table.at({static_cast<int64_t>(ids.get(t)), c}));
    }
    for (const auto& [begin, rows] : std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {8, 4}, {12, 0}}) {
      StreamOps ops;
      const TensorView out = ops.upload(HostTensor(dtype, {5, 7}, {9, 1}));
      embedding(ops.stream(), {.out = out,
                               .ids = ops.upload(ids),
                               .table = ops.upload(table).rows(rows == 0 ? 0 : begin, rows),
                               .vocab_begin = begin});
      const HostTensor part = ops.download(out);
      for (int64_t i = 0; i < part.numel(); ++i) sum[i] += part.get(i);
    }
    EXPECT_EQ(sum, expected);
  }
}

TEST(EmbeddingTest, APaddingIdGivesZeros) {
  StreamOps ops;
  const TensorView out = ops.upload(HostTensor(DType::kBF16, {2, 3}));
  embedding(ops.stream(), {.out = out,
                           .ids = ops.upload(HostTensor(DType::kI32, {2}).fill(-1)),
                           .table = ops.upload(HostTensor(DType::kBF16, {4, 3}))});
  EXPECT_TRUE(near(ops.download(out), std::vector<double>(6, 0.0), 0.0, 0.0));
}

TEST(EmbeddingTest, AnIdBelowZeroStandsForTheTokenOfASlot) {
  const auto table = HostTensor(DType::kF32, {4, 1}).fill_from({10, 11, 12, 13});
  const auto last = HostTensor(DType::kI32, {3}).fill_from({2, -1, 1});
  StreamOps ops;
  const TensorView out = ops.upload(HostTensor(DType::kF32, {4, 1}));
  const auto run = [&](const std::vector<double>& ids) {
    embedding(ops.stream(), {.out = out,
                             .ids = ops.upload(HostTensor(DType::kI32, {4}).fill_from(ids)),
                             .table = ops.upload(table),
                             .last_tokens = ops.upload(last)});
  };
  run({3, -1, -2, -3});
  EXPECT_TRUE(near(ops.download(out), {13, 12, 0, 11}, 0.0, 0.0));
  run({3, -4, 0, 0});
  EXPECT_THAT([&] { ops.wait(); }, ThrowsMessage<Error>(HasSubstr("embedding: row 1 names slot 3 of 3")));
}

TEST(EmbeddingTest, RejectsArgumentsThatDoNotFit) {
  StreamOps ops;
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, dtype, shape);
  };
  EXPECT_THAT(
      [&] {
        embedding(ops.stream(), {.out = view(DType::kF32, {2, 4}),
                                 .ids = view(DType::kI32, {2}),
                                 .table = view(DType::kF32, {4, 3})});
      },
      ThrowsMessage<Error>(HasSubstr("embedding: out is f32[2, 4]; its shape must be [2, 3]")));
  EXPECT_THAT(
      [&] {
        embedding(ops.stream(), {.out = view(DType::kF32, {2, 3}),
                                 .ids = view(DType::kI64, {2}),
                                 .table = view(DType::kF32, {4, 3})});
      },
      ThrowsMessage<Error>(HasSubstr("embedding: ids is i64[2]; its dtype must be i32")));
}

TEST(GatherRowsTest, TakesRowsInOrderAndZerosForMinusOne) {
  StreamOps ops;
  const auto x = HostTensor(DType::kF16, {4, 3}, {5, 1}).fill_normal(2);
  const TensorView out = ops.upload(HostTensor(DType::kF16, {4, 3}));
  gather_rows(ops.stream(), {.out = out,
                             .x = ops.upload(x),
                             .indices = ops.upload(HostTensor(DType::kI32, {4}).fill_from({3, -1, 0, 3}))});
  std::vector<double> expected;
  for (const int64_t r : {3, -1, 0, 3}) {
    for (int64_t c = 0; c < 3; ++c) expected.push_back(r < 0 ? 0.0 : x.at({r, c}));
  }
  EXPECT_TRUE(near(ops.download(out), expected, 0.0, 0.0));
}

TEST(GatherRowsTest, FailsOnAnIndexOutside) {
  for (const int index : {4, -2}) {
    StreamOps ops;
    gather_rows(ops.stream(), {.out = ops.upload(HostTensor(DType::kF32, {1, 3})),
                               .x = ops.upload(HostTensor(DType::kF32, {4, 3})),
                               .indices = ops.upload(HostTensor(DType::kI32, {1}).fill(index))});
    EXPECT_THAT([&] { ops.wait(); },
                ThrowsMessage<Error>(HasSubstr("gather_rows: indices[0]=" + std::to_string(index))));
  }
}

TEST(GatherRowsTest, NoRowsIsNoOp) {
  StreamOps ops;
  const TensorView none = device::make_view(nullptr, DType::kI32, {0});
  const TensorView no_rows = device::make_view(nullptr, DType::kF32, {0, 3});
  const TensorView x = ops.upload(HostTensor(DType::kF32, {4, 3}));
  ops.stream().begin_capture();
  embedding(ops.stream(), {.out = no_rows, .ids = none, .table = x});
  gather_rows(ops.stream(), {.out = no_rows, .x = x, .indices = none});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

}  // namespace
}  // namespace weft::ops
