// Routing and permutation on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include "ops/moe.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

using ops::GroupScore;
using ops::Scoring;
using ::testing::HasSubstr;
using CudaMoeTest = CudaOpTest;

TEST_F(CudaMoeTest, RoutesAsTheCpuDoes) {
  struct Case {
    int64_t experts, top_k;
    Scoring scoring;
    GroupScore group_score;
    int32_t groups, top_groups;
    bool bias, renormalize;
  };
  for (const Case& c : {Case{1, 1, Scoring::kSoftmax, GroupScore::kNone, 1, 1, false, false},
                        Case{60, 4, Scoring::kSoftmax, GroupScore::kNone, 1, 1, false, true},
                        Case{128, 8, Scoring::kSoftmax, GroupScore::kNone, 1, 1, false, true},
                        Case{64, 6, Scoring::kSoftmax, GroupScore::kMax, 8, 3, false, false},
                        Case{256, 8, Scoring::kSigmoid, GroupScore::kSumOfTop2, 8, 4, true, true}}) {
    SCOPED_TRACE(std::to_string(c.experts) + " experts");
    auto logits = HostTensor(DType::kF32, {13, c.experts}, {c.experts + 1, 1}).fill_normal(1, 2.0);
    for (int64_t e = 0; e < c.experts; ++e) logits.set({3, e}, static_cast<double>(e % 4));  // ties
    for (int64_t e = 0; e < c.experts; ++e) logits.set({4, e}, -500.0);                      // sigmoids of 0
    const auto bias = HostTensor(DType::kF32, {c.experts}).fill_normal(2, 0.1);
    const HostTensor ids(DType::kI32, {13, c.top_k});
    const HostTensor weights(DType::kF32, {13, c.top_k});
    const std::vector<int32_t> start = {0, 8};
    const std::vector<int32_t> count = {6, 4};
    for (const int32_t segments : {0, 2}) {
      const auto enqueue = [&](Side& s) {
        ops::route(s.stream(), {.ids = s.out(ids),
                                .weights = s.out(weights),
                                .logits = s.in(logits),
                                .bias = c.bias ? s.in(bias) : TensorView{},
                                .valid = {s.array(start), s.array(count), segments},
                                .scoring = c.scoring,
                                .group_score = c.group_score,
                                .num_groups = c.groups,
                                .top_groups = c.top_groups,
                                .renormalize = c.renormalize,
                                .scaling = 2.5F});
      };
      expect_twins(enqueue, 1e-5, 1e-7);
    }
  }
}

TEST_F(CudaMoeTest, PermutesInOrderOfRow) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t hidden : {8, 33}) {
      for (const int64_t rows : {0, 1, 300}) {
        SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(hidden));
        const auto x = HostTensor(dtype, {rows, hidden}, {hidden + 8, 1}).fill_normal(3);
        const auto ids = HostTensor(DType::kI32, {rows, 4}).fill_integers(4, -1, 8);
        const HostTensor position(DType::kI32, {rows, 4});
        const HostTensor counts(DType::kI32, {9});
        const HostTensor offsets(DType::kI32, {10});
        const std::vector<int32_t> num_rows = {static_cast<int32_t>(rows * 2 / 3)};
        const HostTensor contiguous(dtype, {rows * 4, hidden});
        expect_same_bits([&](Side& s) {
          ops::moe_permute(s.stream(), {.ids = s.in(ids),
                                        .x = s.in(x),
                                        .out = s.out(contiguous),
                                        .offsets = s.out(offsets),
                                        .counts = s.out(counts),
                                        .position = s.out(position),
                                        .num_rows = s.array(num_rows)});
        });
        const HostTensor masked(dtype, {9, rows, hidden});
        expect_same_bits([&](Side& s) {
          ops::moe_permute(s.stream(), {.ids = s.in(ids),
                                        .x = s.in(x),
                                        .out = s.out(masked),
                                        .offsets = {},
                                        .counts = s.out(counts),
                                        .position = s.out(position)});
        });
      }
    }
  }
}

TEST_F(CudaMoeTest, UnpermutesWithWeights) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t hidden : {16, 2100, 33}) {
      const auto x = HostTensor(dtype, {20, hidden}).fill_normal(5);
      const auto position = HostTensor(DType::kI32, {7, 3}).fill_integers(6, -1, 19);
      const auto weights = HostTensor(DType::kF32, {7, 3}).fill_normal(7);
      const std::vector<int32_t> num_rows = {6};
      for (const DType out_dtype : {DType::kF32, dtype}) {
        const HostTensor out(out_dtype, {7, hidden});
        expect_twins(
            [&](Side& s) {
              ops::moe_unpermute(s.stream(), {.out = s.out(out),
                                              .x = s.in(x),
                                              .position = s.in(position),
                                              .weights = s.in(weights),
                                              .num_rows = s.array(num_rows)});
            },
            unit_roundoff(out_dtype), 1e-7);
      }
    }
  }
}

TEST_F(CudaMoeTest, WhatDoesNotFitIsAFailure) {
  const auto x = HostTensor(DType::kF32, {4, 8}).fill_normal(8);
  const HostTensor position(DType::kI32, {4, 2});
  const HostTensor counts(DType::kI32, {3});
  const HostTensor offsets(DType::kI32, {4});
  const auto run = [&](const HostTensor& ids, const HostTensor& out) {
    return cuda_failure([&](Side& s) {
      ops::moe_permute(s.stream(), {.ids = s.in(ids),
                                    .x = s.in(x),
                                    .out = s.in(out),
                                    .offsets = s.in(offsets),
                                    .counts = s.in(counts),
                                    .position = s.in(position)});
    });
  };
  const auto same = HostTensor(DType::kI32, {4, 2}).fill(1);
  EXPECT_THAT(run(same, HostTensor(DType::kF32, {7, 8})),
              HasSubstr("the experts get 8 rows, but out has room for 7"));
  EXPECT_THAT(run(same, HostTensor(DType::kF32, {3, 7, 8})),
              HasSubstr("expert 1 gets 8 rows, but out has room for 7"));
  const auto wrong = HostTensor(DType::kI32, {4, 2}).fill_from({0, 1, 2, 0, 1, 3, 0, 0});
  EXPECT_THAT(run(wrong, HostTensor(DType::kF32, {8, 8})), HasSubstr("ids[2, 1] is 3"));
  const auto far = HostTensor(DType::kI32, {4, 2}).fill(4);
  const auto weights = HostTensor(DType::kF32, {4, 2}).fill_normal(9);
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::moe_unpermute(
                    s.stream(),
                    {.out = s.in(x), .x = s.in(x), .position = s.in(far), .weights = s.in(weights)});
              }),
              HasSubstr("] is 4, but x has 4 rows"));
}

}  // namespace
}  // namespace weft::test
#endif
