#include <gmock/gmock.h>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/moe.h"
#include "support/message_of.h"
#include "support/ops_test.h"

namespace weft::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// x[r, :] = r + 1, so that a copied row names where it came from.
HostTensor numbered_rows(DType dtype, int64_t rows, int64_t hidden) {
  HostTensor x(dtype, {rows, hidden});
  for (int64_t i = 0; i < x.numel(); ++i) x.set(i, static_cast<double>(i / hidden + 1));
  return x;
}

/// moe_permute on the CPU, at once, by as many threads.
void permute(const HostTensor& ids, const HostTensor& x, HostTensor& out, HostTensor& counts,
             HostTensor& position, int num_threads = 1, const int32_t* num_rows = nullptr) {
  InlineContext context(num_threads);
  ops::cpu::moe_permute({.ids = ids.view(),
                         .x = x.view(),
                         .out = out.view(),
                         .counts = counts.view(),
                         .position = position.view(),
                         .num_rows = num_rows},
                        context);
}

TEST(MoePermuteTest, MaskedFormKeepsARoomForEachExpert) {
  HostTensor ids(DType::kI32, {3, 1});
  ids.fill_from({1, 0, 1});
  const HostTensor x = numbered_rows(DType::kBF16, 3, 2);
  HostTensor out(DType::kBF16, {2, 4, 2}), counts(DType::kI32, {2}), position(DType::kI32, {3, 1});
  permute(ids, x, out, counts, position);
  EXPECT_THAT(integers(counts), ElementsAre(1, 2));
  EXPECT_THAT(integers(position), ElementsAre(4, 0, 5));
  EXPECT_EQ(out.at({0, 0, 1}), 2.0);
  EXPECT_EQ(out.at({1, 0, 0}), 1.0);
  EXPECT_EQ(out.at({1, 1, 0}), 3.0);
  EXPECT_TRUE(std::isnan(out.at({1, 2, 0})));
}

TEST(MoePermuteTest, RowsBeyondTheCountDoNotExist) {
  HostTensor ids(DType::kI32, {3, 1});
  ids.fill_from({0, 0, 77});  // the last row is padding: its id is garbage
  const HostTensor x = numbered_rows(DType::kF32, 3, 1);
  HostTensor out(DType::kF32, {1, 3, 1}), counts(DType::kI32, {1}), position(DType::kI32, {3, 1});
  const int32_t num_rows = 2;
  permute(ids, x, out, counts, position, 2, &num_rows);
  EXPECT_THAT(integers(counts), ElementsAre(2));
  EXPECT_THAT(integers(position), ElementsAre(0, 1, -1));  // HostTensor starts as -1
}

TEST(MoePermuteTest, CopiesOfARowStandAtEachOfItsExperts) {
  HostTensor ids(DType::kI32, {4, 2});
  ids.fill_from({1, 0, -1, 1, -1, -1, 0, -1});
  const HostTensor x = numbered_rows(DType::kF32, 4, 3);
  HostTensor out(DType::kF32, {3, 2, 3}), counts(DType::kI32, {3}), position(DType::kI32, {4, 2});
  position.fill(-7);
  permute(ids, x, out, counts, position);
  EXPECT_THAT(integers(counts), ElementsAre(2, 2, 0));
  EXPECT_THAT(integers(position), ElementsAre(2, 0, -1, 3, -1, -1, 1, -1));
  EXPECT_EQ(out.at({0, 0, 2}), 1.0);
  EXPECT_EQ(out.at({0, 1, 2}), 4.0);
  EXPECT_EQ(out.at({1, 0, 2}), 1.0);
  EXPECT_EQ(out.at({1, 1, 2}), 2.0);
  EXPECT_TRUE(std::isnan(out.at({2, 0, 0})));
}

TEST(MoePermuteTest, NoRowsLeaveEmptyExperts) {
  const HostTensor ids(DType::kI32, {0, 2}), x(DType::kF32, {0, 4});
  HostTensor out(DType::kF32, {3, 2, 4}), counts(DType::kI32, {3}), position(DType::kI32, {0, 2});
  counts.fill(-7);
  permute(ids, x, out, counts, position);
  EXPECT_THAT(integers(counts), ElementsAre(0, 0, 0));
}

TEST(MoePermuteTest, WithoutExpertsNoCopyStandsAnywhere) {
  const HostTensor ids(DType::kI32, {2, 2}), x(DType::kF32, {2, 4});  // ids are -1
  HostTensor out(DType::kF32, {0, 2, 4}), counts(DType::kI32, {0}), position(DType::kI32, {2, 2});
  position.fill(-7);
  permute(ids, x, out, counts, position);
  EXPECT_THAT(integers(position), ElementsAre(-1, -1, -1, -1));
}

TEST(MoePermuteTest, OverflowAndBadIdsAreErrors) {
  HostTensor ids(DType::kI32, {3, 1});
  ids.fill(0);
  const HostTensor x = numbered_rows(DType::kF32, 3, 1);
  HostTensor out(DType::kF32, {2, 2, 1}), counts(DType::kI32, {2}), position(DType::kI32, {3, 1});
  ops::PermuteArgs args{.ids = ids.view(),
                        .x = x.view(),
                        .out = out.view(),
                        .counts = counts.view(),
                        .position = position.view()};
  InlineContext context;
  EXPECT_THAT(message_of([&] { ops::cpu::moe_permute(args, context); }), HasSubstr("expert 0 gets 3 rows"));
  for (const int bad : {2, -2}) {
    ids.set(1, bad);
    EXPECT_THAT(message_of([&] { ops::cpu::moe_permute(args, context); }), HasSubstr("ids[1, 0] is "));
  }
  const int32_t num_rows = 4;
  args.num_rows = &num_rows;
  EXPECT_THAT(message_of([&] { ops::cpu::moe_permute(args, context); }), HasSubstr("num_rows=4"));
}

TEST(MoeUnpermuteTest, SumsWeightedCopiesInOrderAndSkipsAbsentOnes) {
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      constexpr int64_t kRows = 5, kTopK = 3, kHidden = 37, kCopies = 9;
      HostTensor x(dtype, {kCopies, kHidden}), out(dtype, {kRows, kHidden}, {50, 1});
      HostTensor position(DType::kI32, {kRows, kTopK}), weights(DType::kF32, {kRows, kTopK});
      x.fill_normal(1);
      for (int64_t h = 0; h < kHidden; ++h) x.set({4, h}, std::nan(""));  // nobody's row
      position.fill_from({0, 1, 2, 3, -1, 8, -1, -1, -1, 5, 5, 6, 7, -1, -1});
      weights.fill_normal(2);
      for (int64_t i = 0; i < weights.numel(); ++i) {
        if (position.get(i) < 0) weights.set(i, std::nan(""));
      }
      const int32_t num_rows = 4;
      InlineContext context(2);
      ops::cpu::moe_unpermute({.out = out.view(),
                               .x = x.view(),
                               .position = position.view(),
                               .weights = weights.view(),
                               .num_rows = &num_rows},
                              context);
      std::vector<double> expected(static_cast<size_t>(out.numel()), std::nan(""));
      for (int64_t r = 0; r < num_rows; ++r) {
        for (int64_t h = 0; h < kHidden; ++h) {
          double sum = 0.0;
          for (int64_t k = 0; k < kTopK; ++k) {
            const auto p = static_cast<int64_t>(position.at({r, k}));
            if (p >= 0) sum += weights.at({r, k}) * x.at({p, h});
          }
          expected[static_cast<size_t>(r * kHidden + h)] = sum;
        }
      }
      EXPECT_TRUE(near(out, expected, 1.01 * unit_roundoff(dtype), 1e-6)) << dtype_name(dtype);
    }
  }
}

TEST(MoeUnpermuteTest, UndoesPermute) {
  HostTensor ids(DType::kI32, {40, 2}), x(DType::kF32, {40, 8});
  x.fill_normal(3);
  ids.fill_integers(4, -1, 6);
  HostTensor permuted(DType::kF32, {7, 40, 8}), counts(DType::kI32, {7});
  HostTensor position(DType::kI32, {40, 2}), weights(DType::kF32, {40, 2}), out(DType::kF32, {40, 8});
  InlineContext context(3);
  permute(ids, x, permuted, counts, position, 3);
  weights.fill(1.0);
  ops::cpu::moe_unpermute({.out = out.view(),
                           .x = permuted.view().reshape({280, 8}),
                           .position = position.view(),
                           .weights = weights.view()},
                          context);
  for (int64_t r = 0; r < 40; ++r) {
    const int copies = (ids.at({r, 0}) >= 0 ? 1 : 0) + (ids.at({r, 1}) >= 0 ? 1 : 0);
    for (int64_t h = 0; h < 8; ++h) EXPECT_EQ(out.at({r, h}), copies * x.at({r, h}));
  }
}

TEST(MoeUnpermuteTest, APositionBeyondTheCopiesIsAnError) {
  HostTensor x(DType::kF32, {2, 1}), position(DType::kI32, {1, 1}), weights(DType::kF32, {1, 1});
  HostTensor out(DType::kF32, {1, 1});
  position.fill(2);
  InlineContext context;
  EXPECT_THAT(
      message_of([&] {
        ops::cpu::moe_unpermute(
            {.out = out.view(), .x = x.view(), .position = position.view(), .weights = weights.view()},
            context);
      }),
      HasSubstr("position[0, 0] is 2"));
}

TEST(MoePermuteStreamTest, RefusesShapesThatDoNotFitAndRunsOthers) {
  const std::unique_ptr<device::Device> device = device::make_cpu_device({});
  const std::unique_ptr<device::Stream> stream = device->make_stream("compute");
  device::Buffer buffer = device->allocate(4096, "all");
  const ops::PermuteArgs good{.ids = buffer.view(DType::kI32, {2, 1}, 0),
                              .x = buffer.view(DType::kF32, {2, 4}, 256),
                              .out = buffer.view(DType::kF32, {3, 2, 4}, 512),
                              .counts = buffer.view(DType::kI32, {3}, 1024),
                              .position = buffer.view(DType::kI32, {2, 1}, 1280)};
  ops::PermuteArgs bad = good;
  bad.x = good.x.columns(0, 2);
  EXPECT_THAT(message_of([&] { ops::moe_permute(*stream, bad); }), HasSubstr("moe_permute: out"));
  bad = good;
  bad.position.dtype = DType::kF32;
  EXPECT_THAT(message_of([&] { ops::moe_permute(*stream, bad); }), HasSubstr("moe_permute: position"));

  good.ids.as<int32_t>()[0] = 2;
  good.ids.as<int32_t>()[1] = 1;
  ops::moe_permute(*stream, good);
  const ops::UnpermuteArgs back{.out = buffer.view(DType::kF32, {2, 4}, 1536),
                                .x = good.out.reshape({6, 4}),
                                .position = good.position,
                                .weights = buffer.view(DType::kF32, {2, 1}, 2048)};
  ops::moe_unpermute(*stream, back);
  stream->wait_idle(std::chrono::seconds(10));
  EXPECT_EQ(good.position.as<int32_t>()[0], 4);
  EXPECT_EQ(good.position.as<int32_t>()[1], 2);
  ops::UnpermuteArgs wrong = back;
  wrong.weights = buffer.view(DType::kF32, {1, 1}, 2048);
  EXPECT_THAT(message_of([&] { ops::moe_unpermute(*stream, wrong); }), HasSubstr("moe_unpermute: weights"));
}

}  // namespace
}  // namespace weft::test
