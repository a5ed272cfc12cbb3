// Routing and permutation on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/math.h"
#include "ops/experts.h"
#include "ops/gemm.h"
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
        const std::vector<int32_t> num_rows = {static_cast<int32_t>(rows * 2 / 3)};
        const HostTensor out(dtype, {9, rows, hidden});
        expect_same_bits([&](Side& s) {
          ops::moe_permute(s.stream(), {.ids = s.in(ids),
                                        .x = s.in(x),
                                        .out = s.out(out),
                                        .counts = s.out(counts),
                                        .position = s.out(position),
                                        .num_rows = s.array(num_rows)});
        });
      }
    }
  }
}

TEST_F(CudaMoeTest, WithoutExpertsNoCopyStandsAnywhere) {
  const auto x = HostTensor(DType::kF32, {300, 8}).fill_normal(3);
  const HostTensor ids(DType::kI32, {300, 2});  // -1
  const auto position = HostTensor(DType::kI32, {300, 2}).fill(-7);
  const std::vector<int32_t> num_rows = {290};
  const auto enqueue = [&](Side& s) {
    ops::moe_permute(s.stream(), {.ids = s.in(ids),
                                  .x = s.in(x),
                                  .out = s.out(HostTensor(DType::kF32, {0, 4, 8})),
                                  .counts = s.out(HostTensor(DType::kI32, {0})),
                                  .position = s.out(position),
                                  .num_rows = s.array(num_rows)});
  };
  expect_same_bits(enqueue);
  const HostTensor placed = on_cuda(enqueue).back();
  EXPECT_EQ(placed.at({289, 1}), -1);
  EXPECT_EQ(placed.at({290, 0}), -7);
}

/// top_k different experts of [0, num_experts), or some -1, in each row.
HostTensor distinct_ids(int64_t rows, int64_t top_k, int64_t num_experts, uint32_t seed) {
  HostTensor ids(DType::kI32, {rows, top_k});
  std::mt19937 random(seed);
  std::vector<int> experts(static_cast<size_t>(num_experts));
  for (int64_t r = 0; r < rows; ++r) {
    std::iota(experts.begin(), experts.end(), 0);
    std::shuffle(experts.begin(), experts.end(), random);
    for (int64_t k = 0; k < top_k; ++k) {
      ids.set({r, k}, random() % 5 == 0 ? -1 : experts[static_cast<size_t>(k)]);
    }
  }
  return ids;
}

TEST_F(CudaMoeTest, GroupsInOrderOfRow) {
  for (const int64_t rows : {0, 1, 3000}) {
    for (const int32_t alignment : {1, 64}) {
      for (const int32_t first : {0, 5}) {
        SCOPED_TRACE(std::to_string(rows) + " rows, alignment " + std::to_string(alignment));
        const HostTensor ids = distinct_ids(rows, 4, 20, 1);
        const HostTensor position(DType::kI32, {rows, 4});
        const HostTensor offsets(DType::kI32, {11});
        const HostTensor source(DType::kI32, {rows * 4 + 10 * alignment});
        const std::vector<int32_t> num_rows = {static_cast<int32_t>(rows * 2 / 3)};
        expect_same_bits([&](Side& s) {
          ops::group_copies(s.stream(), {.ids = s.in(ids),
                                         .offsets = s.out(offsets),
                                         .source = s.out(source),
                                         .position = s.out(position),
                                         .num_rows = s.array(num_rows),
                                         .first_expert = first,
                                         .total_experts = 20,
                                         .alignment = alignment});
        });
      }
    }
  }
}

TEST_F(CudaMoeTest, RoutesAndGroupsAsTheCpuDoes) {
  struct Case {
    int64_t rows, experts, local, top_k;
    int32_t first, alignment;
  };
  for (const Case& c : {Case{1, 128, 128, 8, 0, 1}, Case{33, 128, 128, 8, 0, 1}, Case{256, 64, 32, 6, 32, 1},
                        Case{7, 300, 300, 5, 0, 1}, Case{300, 16, 16, 2, 0, 1}, Case{40, 16, 8, 4, 4, 64}}) {
    SCOPED_TRACE(std::to_string(c.rows) + " rows, " + std::to_string(c.experts) + " experts");
    auto logits = HostTensor(DType::kF32, {c.rows, c.experts}).fill_normal(1, 2.0);
    for (int64_t e = 0; e < c.experts; ++e) logits.set({0, e}, static_cast<double>(e % 4));  // ties
    const HostTensor ids(DType::kI32, {c.rows, c.top_k});
    const HostTensor weights(DType::kF32, {c.rows, c.top_k});
    const HostTensor offsets(DType::kI32, {c.local + 1});
    const HostTensor source(DType::kI32, {c.rows * c.top_k + c.local * (c.alignment - 1)});
    const HostTensor position(DType::kI32, {c.rows, c.top_k});
    const std::vector<int32_t> start = {0};
    const std::vector<int32_t> count = {static_cast<int32_t>(ceil_div<int64_t>(c.rows * 3, 4))};
    expect_twins(
        [&](Side& s) {
          ops::route_and_group(s.stream(), {.route = {.ids = s.out(ids),
                                                      .weights = s.out(weights),
                                                      .logits = s.in(logits),
                                                      .bias = {},
                                                      .valid = {s.array(start), s.array(count), 1},
                                                      .renormalize = true},
                                            .groups = {.ids = {},
                                                       .offsets = s.out(offsets),
                                                       .source = s.out(source),
                                                       .position = s.out(position),
                                                       .first_expert = c.first,
                                                       .total_experts = static_cast<int32_t>(c.experts),
                                                       .alignment = c.alignment}});
        },
        1e-5, 1e-7);
  }
}

struct RouteCase {
  int64_t rows, experts, top_k;
  int64_t first, local;  // experts of this rank
  int32_t alignment;
  bool with_groups = false;  // sigmoid scores, a bias, and experts of 4 groups out of 8
};

/// The same ids and places, bit for bit, with logits of few values: experts tie everywhere, but never nearly.
/// NaN in rows that are not valid; integers that are not written stay -7.
void expect_route_twins(const RouteCase& c) {
  SCOPED_TRACE(std::to_string(c.rows) + " rows, experts " + std::to_string(c.first) + ".." +
               std::to_string(c.first + c.local) + " of " + std::to_string(c.experts));
  const std::vector<int32_t> start = {0, static_cast<int32_t>(c.rows - c.rows / 8)};
  const std::vector<int32_t> count = {static_cast<int32_t>(ceil_div<int64_t>(c.rows * 3, 4)),
                                      static_cast<int32_t>(c.rows / 8)};
  auto logits = HostTensor(DType::kF32, {c.rows, c.experts}).fill_integers(c.rows + c.experts, -40, 40);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t e = 0; e < c.experts; ++e) {
      const bool is_valid = r < count[0] || r >= start[1];
      logits.set({r, e}, is_valid ? logits.at({r, e}) / 8.0 : std::nan(""));
    }
  }
  auto bias = HostTensor(DType::kF32, {c.experts}).fill_integers(2, 0, 9);
  for (int64_t e = 0; e < c.experts; ++e) bias.set(e, bias.get(e) * 0.3);
  const auto filled = [](const HostTensor::Index& shape) {
    return HostTensor(DType::kI32, shape).fill(-7);  // -1 is what ops write
  };
  const HostTensor ids = filled({c.rows, c.top_k});
  const HostTensor offsets = filled({c.local + 1});
  const HostTensor source = filled({c.rows * c.top_k + c.local * (c.alignment - 1)});
  const HostTensor position = filled({c.rows, c.top_k});
  const HostTensor weights(DType::kF32, {c.rows, c.top_k});
  const auto enqueue = [&](Side& s) {
    ops::RouteAndGroupArgs args{.route = {.ids = s.out(ids),
                                          .weights = {},
                                          .logits = s.in(logits),
                                          .bias = {},
                                          .valid = {s.array(start), s.array(count), 2},
                                          .renormalize = true},
                                .groups = {.ids = {},
                                           .offsets = s.out(offsets),
                                           .source = s.out(source),
                                           .position = s.out(position),
                                           .first_expert = static_cast<int32_t>(c.first),
                                           .total_experts = static_cast<int32_t>(c.experts),
                                           .alignment = c.alignment}};
    args.route.weights = s.out(weights);
    if (c.with_groups) {
      args.route.scoring = Scoring::kSigmoid;
      args.route.bias = s.in(bias);
      args.route.group_score = GroupScore::kSumOfTop2;
      args.route.num_groups = 8;
      args.route.top_groups = 4;
    }
    ops::route_and_group(s.stream(), args);
  };
  const std::vector<HostTensor> expected = on_cpu(enqueue);
  const std::vector<HostTensor> actual = on_cuda(enqueue);
  const char* const names[] = {"ids", "offsets", "source", "position"};
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(bit_equal(actual[i], expected[i])) << names[i];
  EXPECT_TRUE(near(actual[4], values_of(expected[4]), 1e-5, 1e-7));
}

TEST_F(CudaMoeTest, AnyNumberOfRowsIsRoutedAndGroupedAsOnTheCpu) {
  for (const int64_t rows : {1, 2, 16, 17, 31, 127, 128, 129, 256, 257, 512, 513, 1024}) {
    expect_route_twins({rows, 128, 8, 0, 128, 1});
  }
}

TEST_F(CudaMoeTest, AnyNumberOfExpertsIsRoutedAndGroupedAsOnTheCpu) {
  for (const int64_t experts : {8, 64, 129, 256, 257}) {
    for (const int64_t rows : {16, 40}) expect_route_twins({rows, experts, 6, 0, experts, 64});
    for (const int64_t rows : {16, 520}) {
      expect_route_twins({rows, experts, 2, experts / 4, experts / 2, 1});
    }
  }
}

TEST_F(CudaMoeTest, ExpertsOfGroupsAreRoutedAndGroupedAsOnTheCpu) {
  for (const int64_t rows : {1, 16, 40, 300, 600}) {
    expect_route_twins({.rows = rows,
                        .experts = 256,
                        .top_k = 8,
                        .first = 32,
                        .local = 64,
                        .alignment = 16,
                        .with_groups = true});
  }
}

TEST_F(CudaMoeTest, UnusualExpertCountsAreRoutedAndGroupedAsOnTheCpu) {
  expect_route_twins({.rows = 20, .experts = 40, .top_k = 33, .first = 0, .local = 40, .alignment = 1});
  expect_route_twins({.rows = 20, .experts = 30, .top_k = 30, .first = 3, .local = 20, .alignment = 8});
  for (const int64_t rows : {1, 20}) {
    expect_route_twins({.rows = rows, .experts = 600, .top_k = 8, .first = 0, .local = 600, .alignment = 1});
  }
  for (const int64_t rows : {5, 50, 600}) {
    expect_route_twins({.rows = rows, .experts = 16, .top_k = 4, .first = 16, .local = 0, .alignment = 1});
  }
}

/// The rows of experts.
struct ExpertCase {
  DType dtype;
  std::vector<int> rows_of;  // each expert's
  int64_t hidden, inter;
};

/// With NaN in a row of x that has no copy, and in all that is not written.
void expect_expert_twins(const ExpertCase& c) {
  const auto experts = static_cast<int64_t>(c.rows_of.size());
  HostTensor offsets(DType::kI32, {experts + 1});
  offsets.set(0, 0);
  int64_t copies = 0;
  for (int64_t e = 0; e < experts; ++e) {
    copies += c.rows_of[static_cast<size_t>(e)];
    offsets.set(e + 1, static_cast<double>(copies));
  }
  const int64_t max_rows = copies + 3;
  const int64_t x_rows = copies / 2 + 2;
  auto x = HostTensor(c.dtype, {x_rows, c.hidden}).fill_normal(1);
  for (int64_t h = 0; h < c.hidden; ++h) x.set({x_rows - 1, h}, std::nan(""));
  HostTensor source(DType::kI32, {max_rows});
  for (int64_t r = 0; r < max_rows; ++r) {
    source.set(r, r < copies ? static_cast<double>(r * 7 % (x_rows - 1)) : -1.0);
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(c.hidden));
  const auto gate_up = HostTensor(c.dtype, {experts, 2 * c.inter, c.hidden}).fill_normal(2, scale);
  const auto down = HostTensor(c.dtype, {experts, c.hidden, c.inter}).fill_normal(3, 0.1);
  const HostTensor work_x(c.dtype, {max_rows, c.hidden});
  const HostTensor work_gate_up(c.dtype, {max_rows, 2 * c.inter});
  const HostTensor act(c.dtype, {max_rows, c.inter});
  const HostTensor out(c.dtype, {max_rows, c.hidden});
  const auto enqueue = [&](Side& s) {
    ops::expert_ffn(s.stream(), {.out = s.out(out),
                                 .x = s.in(x),
                                 .gate_up = s.in(gate_up),
                                 .down = s.in(down),
                                 .offsets = s.in(offsets),
                                 .source = s.in(source),
                                 .copies = s.in(work_x),
                                 .gate_up_out = s.in(work_gate_up),
                                 .act = s.in(act)});
  };
  // Only rows with copies are defined. A rounded act may fall to either side.
  const double bound = 4 * unit_roundoff(c.dtype) + 1e-6;
  const HostTensor expected = on_cpu(enqueue).at(0);
  const HostTensor actual = on_cuda(enqueue).at(0);
  for (int64_t i = 0; i < copies * c.hidden; ++i) {
    ASSERT_NEAR(actual.get(i), expected.get(i), bound * (std::abs(expected.get(i)) + 0.3)) << "element " << i;
  }
  const HostTensor again = on_cuda(enqueue).at(0);
  for (int64_t i = 0; i < copies * c.hidden; ++i) ASSERT_EQ(again.get(i), actual.get(i)) << "element " << i;
}

TEST_F(CudaMoeTest, ExpertsOfFewRowsAreAsOnTheCpu) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    expect_expert_twins({dtype, {0, 1, 0, 0, 3, 9, 0}, 96, 40});
    expect_expert_twins({dtype, {0, 0, 1}, 520, 264});  // the last segments of k are short or empty
    expect_expert_twins({dtype, {37, 0}, 256, 72});     // one expert takes all, in several blocks of rows
    expect_expert_twins({dtype, {17, 16, 8, 7}, 64, 8});
    expect_expert_twins({dtype, {5, 2, 4}, 2304, 32});  // more steps than the ring of registers holds
  }
}

TEST_F(CudaMoeTest, ExpertsOfOtherWidthsAndManyRowsAreAsOnTheCpu) {
  expect_expert_twins({DType::kBF16, {3, 0, 5}, 33, 10});
  expect_expert_twins({DType::kBF16, {90, 0, 41}, 64, 24});
  expect_expert_twins({DType::kF32, {2, 0, 7}, 40, 12});
}

TEST_F(CudaMoeTest, NoCopiesAreComputedIfThereAreNone) {
  expect_expert_twins({DType::kBF16, {0, 0, 0}, 64, 16});
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
  const auto same = HostTensor(DType::kI32, {4, 2}).fill(1);
  const auto wrong = HostTensor(DType::kI32, {4, 2}).fill_from({0, 1, 2, 0, 1, 3, 0, 0});
  const auto permute = [&](const HostTensor& ids, int64_t max_rows) {
    return cuda_failure([&](Side& s) {
      ops::moe_permute(s.stream(), {.ids = s.in(ids),
                                    .x = s.in(x),
                                    .out = s.in(HostTensor(DType::kF32, {3, max_rows, 8})),
                                    .counts = s.in(counts),
                                    .position = s.in(position)});
    });
  };
  EXPECT_THAT(permute(same, 7), HasSubstr("expert 1 gets 8 rows, but out has room for 7"));
  EXPECT_THAT(permute(wrong, 8), HasSubstr("ids[2, 1] is 3"));
  const auto group = [&](const HostTensor& ids, int64_t max_rows) {
    return cuda_failure([&](Side& s) {
      ops::group_copies(s.stream(), {.ids = s.in(ids),
                                     .offsets = s.in(offsets),
                                     .source = s.in(HostTensor(DType::kI32, {max_rows})),
                                     .position = s.in(position),
                                     .total_experts = 3});
    });
  };
  EXPECT_THAT(group(same, 7), HasSubstr("the copies end at row 8, but there is room for 7"));
  EXPECT_THAT(group(wrong, 8), HasSubstr("ids[2, 1] is 3"));
  for (const int64_t rows : {4, 40, 600}) {
    const HostTensor ids(DType::kI32, {rows, 2});
    const auto logits = HostTensor(DType::kF32, {rows, 5}).fill(0.0);
    EXPECT_THAT(cuda_failure([&](Side& s) {
                  ops::route_and_group(s.stream(),
                                       {.route = {.ids = s.out(ids),
                                                  .weights = s.out(HostTensor(DType::kF32, {rows, 2})),
                                                  .logits = s.in(logits),
                                                  .bias = {},
                                                  .valid = {}},
                                        .groups = {.ids = {},
                                                   .offsets = s.out(HostTensor(DType::kI32, {6})),
                                                   .source = s.out(HostTensor(DType::kI32, {2 * rows - 1})),
                                                   .position = s.out(ids),
                                                   .total_experts = 5}});
                }),
                HasSubstr("the copies end at row " + std::to_string(2 * rows) + ", but there is room for " +
                          std::to_string(2 * rows - 1)));
  }
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
