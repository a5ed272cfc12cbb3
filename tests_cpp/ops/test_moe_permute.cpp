#include <gmock/gmock.h>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/moe.h"
#include "support/ops_test.h"

namespace weft::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int64_t> integers(const HostTensor& tensor) {
  std::vector<int64_t> result;
  for (int64_t i = 0; i < tensor.numel(); ++i) result.push_back(static_cast<int64_t>(tensor.get(i)));
  return result;
}

template <class Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// x[r, :] = r + 1, so that a copied row names where it came from.
HostTensor numbered_rows(DType dtype, int64_t rows, int64_t hidden) {
  HostTensor x(dtype, {rows, hidden});
  for (int64_t i = 0; i < x.numel(); ++i) x.set(i, static_cast<double>(i / hidden + 1));
  return x;
}

struct Grouped {
  std::vector<int64_t> offsets, source, position;
};

struct GroupOptions {
  const int32_t* num_rows = nullptr;
  int32_t first_expert = 0;
  int32_t total_experts = 0;  // 0: all are local
  int32_t alignment = 1;
};

/// group_copies on the CPU; outputs hold -7 before.
Grouped group(const HostTensor& ids, int64_t num_experts, int64_t max_rows,
              const GroupOptions& options = {}) {
  HostTensor offsets(DType::kI32, {num_experts + 1}), source(DType::kI32, {max_rows});
  HostTensor position(DType::kI32, {ids.view().shape[0], ids.view().shape[1]});
  for (HostTensor* out : {&offsets, &source, &position}) out->fill(-7);
  InlineContext context;
  ops::cpu::group_copies({.ids = ids.view(),
                          .offsets = offsets.view(),
                          .source = source.view(),
                          .position = position.view(),
                          .num_rows = options.num_rows,
                          .first_expert = options.first_expert,
                          .total_experts = options.total_experts == 0 ? static_cast<int32_t>(num_experts)
                                                                      : options.total_experts,
                          .alignment = options.alignment},
                         context);
  return {integers(offsets), integers(source), integers(position)};
}

TEST(GroupCopiesTest, PlacesCopiesByExpertThenInOrderOfRow) {
  HostTensor ids(DType::kI32, {4, 2});
  ids.fill_from({2, 0, 0, -1, 2, 1, -1, -1});
  const Grouped g = group(ids, 3, 6);
  EXPECT_THAT(g.offsets, ElementsAre(0, 2, 3, 5));
  EXPECT_THAT(g.source, ElementsAre(0, 1, 2, 0, 2, -1));
  EXPECT_THAT(g.position, ElementsAre(3, 0, 1, -1, 4, 2, -1, -1));
}

TEST(GroupCopiesTest, AlignedExpertsStartAtMultiplesAndEmptyOnesToo) {
  HostTensor ids(DType::kI32, {3, 2});
  ids.fill_from({0, 2, 2, 0, 2, 3});
  const Grouped g = group(ids, 4, 14, {.alignment = 4});
  EXPECT_THAT(g.offsets, ElementsAre(0, 2, 4, 7, 9));  // expert 1 is empty: from 4 to 4
  EXPECT_THAT(g.source, ElementsAre(0, 1, -1, -1, 0, 1, 2, -1, 2, -1, -1, -1, -1, -1));
  EXPECT_THAT(g.position, ElementsAre(0, 4, 5, 1, 6, 8));
}

TEST(GroupCopiesTest, ExpertsOfOtherRanksStandNowhere) {
  HostTensor ids(DType::kI32, {2, 3});
  ids.fill_from({0, 3, 5, 4, -1, 3});
  const Grouped g = group(ids, 2, 3, {.first_expert = 3, .total_experts = 6});
  EXPECT_THAT(g.offsets, ElementsAre(0, 2, 3));
  EXPECT_THAT(g.source, ElementsAre(0, 1, 1));
  EXPECT_THAT(g.position, ElementsAre(-1, 0, -1, 2, -1, 1));
}

TEST(GroupCopiesTest, RowsBeyondTheCountDoNotExist) {
  HostTensor ids(DType::kI32, {3, 1});
  ids.fill_from({0, 0, 77});  // the last row is padding: its id is garbage
  const int32_t num_rows = 2;
  const Grouped g = group(ids, 1, 3, {.num_rows = &num_rows});
  EXPECT_THAT(g.offsets, ElementsAre(0, 2));
  EXPECT_THAT(g.position, ElementsAre(0, 1, -7));
}

TEST(GroupCopiesTest, NoRowsLeaveEmptyExperts) {
  const Grouped g = group(HostTensor(DType::kI32, {0, 2}), 3, 2);
  EXPECT_THAT(g.offsets, ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(g.source, ElementsAre(-1, -1));
}

TEST(GroupCopiesTest, OverflowAndBadIdsAreErrors) {
  HostTensor ids(DType::kI32, {3, 1});
  ids.fill(0);
  EXPECT_THAT(message_of([&] { group(ids, 2, 2); }), HasSubstr("the copies end at row 3"));
  for (const int bad : {2, -2}) {
    ids.set(1, bad);
    EXPECT_THAT(message_of([&] { group(ids, 2, 3); }), HasSubstr("ids[1, 0] is "));
  }
  const int32_t num_rows = 4;
  EXPECT_THAT(message_of([&] { group(ids, 2, 3, {.num_rows = &num_rows}); }), HasSubstr("num_rows=4"));
}

TEST(RouteAndGroupTest, IsRouteAndThenGroupCopies) {
  constexpr int64_t kRows = 5, kExperts = 6, kTopK = 2;
  HostTensor logits(DType::kF32, {kRows, kExperts});
  logits.fill_normal(1);
  HostTensor ids(DType::kI32, {kRows, kTopK}), weights(DType::kF32, {kRows, kTopK});
  HostTensor offsets(DType::kI32, {4}), source(DType::kI32, {kRows * kTopK});
  HostTensor position(DType::kI32, {kRows, kTopK});
  const int32_t start = 0, count = 4;
  InlineContext context;
  HostTensor routed_ids(ids), routed_weights(weights);
  ops::cpu::route({.ids = routed_ids.view(),
                   .weights = routed_weights.view(),
                   .logits = logits.view(),
                   .bias = {},
                   .valid = {&start, &count, 1}},
                  context);
  ops::cpu::route_and_group({.route = {.ids = ids.view(),
                                       .weights = weights.view(),
                                       .logits = logits.view(),
                                       .bias = {},
                                       .valid = {&start, &count, 1}},
                             .groups = {.ids = {},
                                        .offsets = offsets.view(),
                                        .source = source.view(),
                                        .position = position.view(),
                                        .first_expert = 2,
                                        .total_experts = kExperts}},
                            context);
  EXPECT_TRUE(bit_equal(ids, routed_ids));
  EXPECT_TRUE(bit_equal(weights, routed_weights));
  const Grouped g = group(ids, 3, kRows * kTopK, {.first_expert = 2, .total_experts = kExperts});
  EXPECT_EQ(integers(offsets), g.offsets);
  EXPECT_EQ(integers(source), g.source);
  EXPECT_EQ(integers(position), g.position);
  EXPECT_EQ(position.at({4, 0}), -1);  // a row that is not valid
}

TEST(ExpertFfnTest, IsTheFfnOfEachCopysExpert) {
  constexpr int64_t kHidden = 24, kInter = 10, kExperts = 4;
  HostTensor ids(DType::kI32, {6, 2});
  ids.fill_from({2, 0, 0, -1, 2, 3, -1, -1, 0, 2, 3, 2});  // expert 1 is empty
  const Grouped g = group(ids, kExperts, 16, {.alignment = 4});
  const auto x = HostTensor(DType::kF32, {6, kHidden}).fill_normal(2);
  const auto gate_up = HostTensor(DType::kF32, {kExperts, 2 * kInter, kHidden}).fill_normal(3, 0.2);
  const auto down = HostTensor(DType::kF32, {kExperts, kHidden, kInter}).fill_normal(4, 0.2);
  HostTensor offsets(DType::kI32, {kExperts + 1}), source(DType::kI32, {16});
  HostTensor out(DType::kF32, {16, kHidden}), copies(DType::kF32, {16, kHidden});
  HostTensor gate_up_out(DType::kF32, {16, 2 * kInter}), act(DType::kF32, {16, kInter});
  for (int64_t i = 0; i <= kExperts; ++i) {
    offsets.set(i, static_cast<double>(g.offsets[static_cast<size_t>(i)]));
  }
  for (int64_t i = 0; i < 16; ++i) source.set(i, static_cast<double>(g.source[static_cast<size_t>(i)]));
  InlineContext context;
  ops::cpu::expert_ffn({.out = out.view(),
                        .x = x.view(),
                        .gate_up = gate_up.view(),
                        .down = down.view(),
                        .offsets = offsets.view(),
                        .source = source.view(),
                        .alignment = 4,
                        .copies = copies.view(),
                        .gate_up_out = gate_up_out.view(),
                        .act = act.view()},
                       context);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int64_t p = g.position[static_cast<size_t>(i)];
    if (p < 0) continue;
    const auto e = static_cast<int64_t>(ids.get(i));
    std::vector<double> expected(kHidden, 0.0);
    for (int64_t c = 0; c < kInter; ++c) {
      double gate = 0.0, up = 0.0;
      for (int64_t h = 0; h < kHidden; ++h) {
        gate += x.at({i / 2, h}) * gate_up.at({e, c, h});
        up += x.at({i / 2, h}) * gate_up.at({e, kInter + c, h});
      }
      for (int64_t h = 0; h < kHidden; ++h) {
        expected[static_cast<size_t>(h)] += gate / (1.0 + std::exp(-gate)) * up * down.at({e, h, c});
      }
    }
    for (int64_t h = 0; h < kHidden; ++h) {
      EXPECT_NEAR(out.at({p, h}), expected[static_cast<size_t>(h)], 1e-4) << "copy " << i;
    }
  }
}

TEST(MoePermuteTest, MaskedFormKeepsARoomForEachExpert) {
  HostTensor ids(DType::kI32, {3, 1});
  ids.fill_from({1, 0, 1});
  const HostTensor x = numbered_rows(DType::kBF16, 3, 2);
  HostTensor out(DType::kBF16, {2, 4, 2}), counts(DType::kI32, {2}), position(DType::kI32, {3, 1});
  InlineContext context;
  ops::cpu::moe_permute({.ids = ids.view(),
                         .x = x.view(),
                         .out = out.view(),
                         .counts = counts.view(),
                         .position = position.view()},
                        context);
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
  InlineContext context(2);
  ops::cpu::moe_permute({.ids = ids.view(),
                         .x = x.view(),
                         .out = out.view(),
                         .counts = counts.view(),
                         .position = position.view(),
                         .num_rows = &num_rows},
                        context);
  EXPECT_THAT(integers(counts), ElementsAre(2));
  EXPECT_THAT(integers(position), ElementsAre(0, 1, -1));  // HostTensor starts as -1
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
  ops::cpu::moe_permute({.ids = ids.view(),
                         .x = x.view(),
                         .out = permuted.view(),
                         .counts = counts.view(),
                         .position = position.view()},
                        context);
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
