#include <gmock/gmock.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <memory>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/experts.h"
#include "support/message_of.h"
#include "support/ops_test.h"

namespace weft::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

/// Arguments that fit, in one buffer. Tests spoil one at a time.
class ExpertsStreamTest : public ::testing::Test {
 protected:
  TensorView take(DType dtype, std::initializer_list<int64_t> shape) {
    const TensorView view = buffer_.view(dtype, shape, next_);
    next_ += 256;
    return view;
  }
  /// The error of `run` with `args` after `spoil`.
  template <class Args>
  std::string error(void (*run)(device::Stream&, const Args&), Args args,
                    const std::function<void(Args&)>& spoil) {
    spoil(args);
    return message_of([&] { run(*stream_, args); });
  }

  std::unique_ptr<device::Device> device_ = device::make_cpu_device({});
  std::unique_ptr<device::Stream> stream_ = device_->make_stream("compute");
  device::Buffer buffer_ = device_->allocate(16384, "all");
  size_t next_ = 0;

  ops::GroupArgs groups_{.ids = take(DType::kI32, {4, 2}),
                         .offsets = take(DType::kI32, {4}),
                         .source = take(DType::kI32, {8}),
                         .position = take(DType::kI32, {4, 2}),
                         .first_expert = 2,
                         .total_experts = 6};
  ops::RouteArgs route_{.ids = take(DType::kI32, {4, 2}),
                        .weights = take(DType::kF32, {4, 2}),
                        .logits = take(DType::kF32, {4, 6}),
                        .bias = {},
                        .valid = {}};
};

TEST_F(ExpertsStreamTest, GroupCopiesRefusesWhatDoesNotFit) {
  using Args = ops::GroupArgs;
  const auto refused = [&](const std::function<void(Args&)>& spoil) {
    return error<Args>(&ops::group_copies, groups_, spoil);
  };
  EXPECT_THAT(refused([](Args& a) { a.ids.dtype = DType::kF32; }), HasSubstr("group_copies: ids"));
  EXPECT_THAT(refused([](Args& a) { a.position = a.position.columns(0, 1); }),
              HasSubstr("group_copies: position"));
  EXPECT_THAT(refused([](Args& a) { a.offsets.dtype = DType::kI64; }), HasSubstr("group_copies: offsets"));
  EXPECT_THAT(refused([](Args& a) { a.source = a.ids; }), HasSubstr("group_copies: source"));
  EXPECT_THAT(refused([](Args& a) { a.total_experts = 4; }),
              HasSubstr("group_copies: experts [2, 5) are not among the 4"));
  EXPECT_THAT(refused([](Args& a) { a.first_expert = -1; }), HasSubstr("group_copies: experts [-1, 2)"));
  EXPECT_THAT(refused([](Args& a) { a.alignment = 0; }), HasSubstr("group_copies: alignment=0"));
  EXPECT_EQ(refused([](Args&) {}), "no error");
}

TEST_F(ExpertsStreamTest, RouteAndGroupRefusesWhatDoesNotFit) {
  using Args = ops::RouteAndGroupArgs;
  const auto refused = [&](const std::function<void(Args&)>& spoil) {
    return error<Args>(&ops::route_and_group, {.route = route_, .groups = groups_}, spoil);
  };
  EXPECT_THAT(refused([](Args& a) { a.route.logits.dtype = DType::kBF16; }),
              HasSubstr("route_and_group: logits"));
  EXPECT_THAT(refused([](Args& a) { a.route.weights = a.route.weights.columns(0, 1); }),
              HasSubstr("route_and_group: weights"));
  EXPECT_THAT(refused([](Args& a) { a.route.num_groups = 4; }), HasSubstr("route_and_group: num_experts=6"));
  EXPECT_THAT(refused([](Args& a) { a.groups.position = a.groups.position.columns(0, 1); }),
              HasSubstr("route_and_group: position"));
  EXPECT_THAT(refused([](Args& a) { a.groups.offsets = a.groups.ids; }),
              HasSubstr("route_and_group: offsets"));
  EXPECT_THAT(refused([](Args& a) { a.groups.alignment = -4; }), HasSubstr("route_and_group: alignment=-4"));
  EXPECT_THAT(refused([](Args& a) { a.groups.total_experts = 7; }),
              HasSubstr("route_and_group: total_experts=7, but logits are"));
  for (int64_t i = 0; i < 24; ++i) route_.logits.as<float>()[i] = static_cast<float>(i % 6);
  EXPECT_EQ(refused([](Args&) {}), "no error");
}

TEST_F(ExpertsStreamTest, ExpertFfnRefusesWhatDoesNotFit) {
  using Args = ops::ExpertFfnArgs;
  const Args good{.out = take(DType::kF32, {8, 4}),
                  .x = take(DType::kF32, {4, 4}),
                  .gate_up = take(DType::kF32, {3, 4, 4}),
                  .down = take(DType::kF32, {3, 4, 2}),
                  .offsets = groups_.offsets,
                  .source = groups_.source,
                  .copies = take(DType::kF32, {8, 4}),
                  .gate_up_out = take(DType::kF32, {8, 4}),
                  .act = take(DType::kF32, {8, 2})};
  const auto refused = [&](const std::function<void(Args&)>& spoil) {
    return error<Args>(&ops::expert_ffn, good, spoil);
  };
  EXPECT_THAT(refused([](Args& a) { a.x.dtype = DType::kI32; }), HasSubstr("expert_ffn: x"));
  EXPECT_THAT(refused([](Args& a) { a.x = a.x.columns(0, 2); }), HasSubstr("expert_ffn: gate_up"));
  EXPECT_THAT(refused([](Args& a) { a.down.dtype = DType::kBF16; }), HasSubstr("expert_ffn: down"));
  EXPECT_THAT(refused([](Args& a) { a.down = a.gate_up; }), HasSubstr("expert_ffn: down"));
  EXPECT_THAT(refused([](Args& a) { a.offsets = a.source; }), HasSubstr("expert_ffn: offsets"));
  EXPECT_THAT(refused([](Args& a) { a.source = a.x; }), HasSubstr("expert_ffn: source"));
  EXPECT_THAT(refused([](Args& a) { a.out = a.x; }), HasSubstr("expert_ffn: out"));
  EXPECT_THAT(refused([](Args& a) { a.copies = a.act; }), HasSubstr("expert_ffn: copies"));
  EXPECT_THAT(refused([](Args& a) { a.gate_up_out.dtype = DType::kF16; }),
              HasSubstr("expert_ffn: gate_up_out"));
  EXPECT_THAT(refused([](Args& a) { a.act = a.out; }), HasSubstr("expert_ffn: act"));
  EXPECT_THAT(refused([](Args& a) { a.alignment = 0; }), HasSubstr("expert_ffn: alignment=0"));
  for (int64_t i = 0; i < 4; ++i) good.offsets.as<int32_t>()[i] = 0;
  EXPECT_EQ(refused([](Args&) {}), "no error");
  stream_->wait_idle(std::chrono::seconds(10));
}

}  // namespace
}  // namespace weft::test
