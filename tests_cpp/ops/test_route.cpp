#include <gmock/gmock.h>

#include <numeric>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/moe.h"
#include "support/ops_test.h"

namespace weft::test {
namespace {

using ops::GroupScore;
using ops::Scoring;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Router {
  int64_t num_experts = 16;
  int64_t top_k = 4;
  Scoring scoring = Scoring::kSoftmax;
  GroupScore group_score = GroupScore::kNone;
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  bool renormalize = false;
  float scaling = 1.0F;
  bool has_bias = false;
};

struct Choice {
  std::vector<int64_t> ids;
  std::vector<double> weights;
  double margin = 1e9;  // least gap between what was taken and what was not
};

/// Indices of the `count` largest, in falling order; `margin` becomes the gap to the next if that is less.
std::vector<int64_t> largest(const std::vector<double>& values, int64_t count, double& margin) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  for (int64_t i = 0; i < count && i + 1 < static_cast<int64_t>(order.size()); ++i) {
    margin = std::min(margin, values[order[i]] - values[order[i + 1]]);
  }
  order.resize(static_cast<size_t>(count));
  return order;
}

/// The routers of transformers as formulas, in f64.
Choice reference(const Router& router, const std::vector<double>& logits, const std::vector<double>& bias) {
  std::vector<double> scores;
  double sum = 0.0;
  for (const double x : logits) sum += std::exp(x);
  for (const double x : logits) {
    scores.push_back(router.scoring == Scoring::kSigmoid ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / sum);
  }
  std::vector<double> choice = scores;
  for (size_t e = 0; e < choice.size() && !bias.empty(); ++e) choice[e] += bias[e];
  Choice result;
  if (router.group_score != GroupScore::kNone) {
    const auto size = static_cast<size_t>(router.num_experts / router.num_groups);
    std::vector<double> groups;
    for (size_t g = 0; g < static_cast<size_t>(router.num_groups); ++g) {
      std::vector<double> members(choice.begin() + static_cast<int64_t>(g * size),
                                  choice.begin() + static_cast<int64_t>((g + 1) * size));
      std::sort(members.rbegin(), members.rend());
      groups.push_back(router.group_score == GroupScore::kMax ? members[0] : members[0] + members[1]);
    }
    const std::vector<int64_t> kept = largest(groups, router.top_groups, result.margin);
    for (size_t e = 0; e < choice.size(); ++e) {
      if (std::find(kept.begin(), kept.end(), static_cast<int64_t>(e / size)) == kept.end())
        choice[e] = -1e30;
    }
  }
  result.ids = largest(choice, router.top_k, result.margin);
  double total = 1e-20;
  for (const int64_t id : result.ids) total += scores[static_cast<size_t>(id)];
  for (const int64_t id : result.ids) {
    const double weight = scores[static_cast<size_t>(id)] / (router.renormalize ? total : 1.0);
    result.weights.push_back(weight * static_cast<double>(router.scaling));
  }
  return result;
}

struct Routing {
  HostTensor ids, weights, logits, bias;

  Routing(const Router& router, int64_t rows)
      : ids(DType::kI32, {rows, router.top_k}),
        weights(DType::kF32, {rows, router.top_k}),
        logits(DType::kF32, {rows, router.num_experts}, {router.num_experts + 3, 1}),
        bias(DType::kF32, {router.num_experts}) {
    logits.fill_normal(1, 2.0);
    bias.fill_normal(2, 0.3);
  }
  [[nodiscard]] ops::RouteArgs args(const Router& router) const {
    return {.ids = ids.view(),
            .weights = weights.view(),
            .logits = logits.view(),
            .bias = router.has_bias ? bias.view() : TensorView{},
            .valid = {},
            .scoring = router.scoring,
            .group_score = router.group_score,
            .num_groups = router.num_groups,
            .top_groups = router.top_groups,
            .renormalize = router.renormalize,
            .scaling = router.scaling};
  }
};

constexpr Router kQwen3Moe{.num_experts = 128, .top_k = 8, .renormalize = true};
constexpr Router kDeepseekV2Lite{.num_experts = 64, .top_k = 6};
constexpr Router kDeepseekV2{.num_experts = 160,
                             .top_k = 6,
                             .group_score = GroupScore::kMax,
                             .num_groups = 8,
                             .top_groups = 3,
                             .scaling = 16.0F};
constexpr Router kDeepseekV3{.num_experts = 256,
                             .top_k = 8,
                             .scoring = Scoring::kSigmoid,
                             .group_score = GroupScore::kSumOfTop2,
                             .num_groups = 8,
                             .top_groups = 4,
                             .renormalize = true,
                             .scaling = 2.5F,
                             .has_bias = true};

TEST(RouteTest, MatchesTheFormulasOfEveryFamily) {
  for (const Router& router : {kQwen3Moe, kDeepseekV2Lite, kDeepseekV2, kDeepseekV3}) {
    constexpr int64_t kRows = 200;
    Routing routing(router, kRows);
    InlineContext context(2);
    ops::cpu::route(routing.args(router), context);
    std::vector<double> bias;
    for (int64_t e = 0; e < router.num_experts && router.has_bias; ++e) bias.push_back(routing.bias.get(e));
    int64_t compared = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      std::vector<double> logits;
      for (int64_t e = 0; e < router.num_experts; ++e) logits.push_back(routing.logits.at({r, e}));
      const Choice expected = reference(router, logits, bias);
      if (expected.margin < 1e-6) continue;  // f32 may order these otherwise
      ++compared;
      for (int64_t k = 0; k < router.top_k; ++k) {
        EXPECT_EQ(routing.ids.at({r, k}), static_cast<double>(expected.ids[static_cast<size_t>(k)]))
            << "row " << r;
        const double weight = expected.weights[static_cast<size_t>(k)];
        EXPECT_NEAR(routing.weights.at({r, k}), weight, 2e-6 * weight) << "row " << r;
      }
    }
    EXPECT_GT(compared, kRows * 9 / 10);
  }
}

TEST(RouteTest, TheBiasChoosesButDoesNotWeigh) {
  const Router router{.num_experts = 4, .top_k = 2, .scoring = Scoring::kSigmoid, .has_bias = true};
  Routing routing(router, 1);
  routing.logits.fill_from({2.0, 1.0, 0.0, -1.0});
  routing.bias.fill_from({-9.0, 0.0, 0.0, 9.0});
  InlineContext context;
  ops::cpu::route(routing.args(router), context);
  EXPECT_EQ(routing.ids.get(0), 3.0);
  EXPECT_EQ(routing.ids.get(1), 1.0);
  EXPECT_NEAR(routing.weights.get(0), 1.0 / (1.0 + std::exp(1.0)), 1e-6);
}

TEST(RouteTest, ExpertsOutsideTheKeptGroupsAreNeverChosen) {
  const Router router{.num_experts = 6, .top_k = 2, .group_score = GroupScore::kMax, .num_groups = 3};
  Routing routing(router, 1);
  routing.logits.fill_from({5.0, -9.0, 4.9, 4.8, 4.7, 4.6});  // the best group has one good expert
  InlineContext context;
  ops::cpu::route(routing.args(router), context);
  EXPECT_EQ(routing.ids.get(0), 0.0);
  EXPECT_EQ(routing.ids.get(1), 1.0);
}

TEST(RouteTest, TiesGoToTheLowerId) {
  const Router router{
      .num_experts = 8, .top_k = 3, .group_score = GroupScore::kMax, .num_groups = 4, .top_groups = 2};
  Routing routing(router, 1);
  routing.logits.fill(0.5);
  InlineContext context;
  ops::cpu::route(routing.args(router), context);
  EXPECT_EQ(routing.ids.get(0), 0.0);
  EXPECT_EQ(routing.ids.get(1), 1.0);
  EXPECT_EQ(routing.ids.get(2), 2.0);
}

TEST(RouteTest, SigmoidsThatAreAllZeroHaveNoWeight) {
  const Router router{.num_experts = 4, .top_k = 2, .scoring = Scoring::kSigmoid, .renormalize = true};
  Routing routing(router, 1);
  routing.logits.fill(-200.0);
  InlineContext context;
  ops::cpu::route(routing.args(router), context);
  EXPECT_EQ(routing.weights.get(0), 0.0);
  EXPECT_EQ(routing.weights.get(1), 0.0);
}

TEST(RouteTest, PaddingRowsGetNoExpertAndChangeNothing) {
  const Router router = kDeepseekV3;
  Routing full(router, 12), padded(router, 12);
  const std::vector<int32_t> start = {0, 5}, count = {2, 4};  // rows 0, 1, 5, 6, 7, 8
  for (int64_t r = 0; r < 12; ++r) {
    const bool valid = r < 2 || (r >= 5 && r < 9);
    for (int64_t e = 0; e < router.num_experts && !valid; ++e) padded.logits.set({r, e}, std::nan(""));
  }
  InlineContext context(3);
  ops::cpu::route(full.args(router), context);
  ops::RouteArgs args = padded.args(router);
  args.valid = {.start = start.data(), .count = count.data(), .num_segments = 2};
  ops::cpu::route(args, context);
  for (int64_t r = 0; r < 12; ++r) {
    const bool valid = r < 2 || (r >= 5 && r < 9);
    for (int64_t k = 0; k < router.top_k; ++k) {
      const int64_t i = r * router.top_k + k;
      EXPECT_EQ(padded.ids.get(i), valid ? full.ids.get(i) : -1.0) << "row " << r;
      EXPECT_EQ(padded.weights.bits(i), valid ? full.weights.bits(i) : 0U) << "row " << r;
    }
  }
}

TEST(RouteTest, NanLogitsOfAValidRowStillGiveDistinctExperts) {
  for (const Router& router : {kQwen3Moe, kDeepseekV3}) {
    Routing routing(router, 1);
    routing.logits.fill(std::nan(""));
    InlineContext context;
    ops::cpu::route(routing.args(router), context);
    std::vector<double> ids;
    for (int64_t k = 0; k < router.top_k; ++k) ids.push_back(routing.ids.get(k));
    std::sort(ids.begin(), ids.end());
    EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
    EXPECT_GE(ids.front(), 0.0);
    EXPECT_LT(ids.back(), static_cast<double>(router.num_experts));
  }
}

TEST(RouteTest, RefusesRoutersThatCannotBe) {
  const std::unique_ptr<device::Device> device = device::make_cpu_device({});
  const std::unique_ptr<device::Stream> stream = device->make_stream("compute");
  const auto message = [&](const Router& router, auto&& damage) -> std::string {
    Routing routing(router, 2);
    ops::RouteArgs args = routing.args(router);
    damage(args);
    try {
      ops::route(*stream, args);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const auto nothing = [](ops::RouteArgs&) {};
  EXPECT_THAT(message({.num_experts = 6, .top_k = 7}, nothing), HasSubstr("top_k=7 must lie in 1..6"));
  EXPECT_THAT(message({.num_experts = 6, .num_groups = 4}, nothing), HasSubstr("multiple of num_groups=4"));
  EXPECT_THAT(message({.num_experts = 6, .num_groups = 3, .top_groups = 4}, nothing),
              HasSubstr("top_groups=4"));
  EXPECT_THAT(
      message({.num_experts = 8, .top_k = 3, .group_score = GroupScore::kMax, .num_groups = 4}, nothing),
      HasSubstr("top_k=3 must lie in 1..2"));
  EXPECT_THAT(message({.num_experts = 4, .top_k = 1, .group_score = GroupScore::kSumOfTop2, .num_groups = 4},
                      nothing),
              HasSubstr("two best experts"));
  EXPECT_THAT(message({}, [](ops::RouteArgs& args) { args.weights = args.weights.rows(0, 1); }),
              HasSubstr("route: weights"));
  EXPECT_THAT(message({}, [](ops::RouteArgs& args) { args.valid.num_segments = 1; }),
              HasSubstr("start=null"));
  EXPECT_THAT(message({}, [](ops::RouteArgs& args) { args.bias = args.logits; }), HasSubstr("route: bias"));
}

TEST(RouteTest, AReplayReadsTheValidRowsFromDeviceMemory) {
  const std::unique_ptr<device::Device> device = device::make_cpu_device({.num_threads = 2});
  const std::unique_ptr<device::Stream> stream = device->make_stream("compute");
  device::Buffer buffer = device->allocate(1024, "all");
  auto* segment = static_cast<int32_t*>(buffer.data());
  const ops::RouteArgs args{.ids = buffer.view(DType::kI32, {3, 1}, 64),
                            .weights = buffer.view(DType::kF32, {3, 1}, 128),
                            .logits = buffer.view(DType::kF32, {3, 2}, 192),
                            .bias = {},
                            .valid = {.start = segment, .count = segment + 1, .num_segments = 1}};
  for (int i = 0; i < 6; ++i) args.logits.as<float>()[i] = static_cast<float>(i % 2);
  stream->begin_capture();
  ops::route(*stream, args);
  const std::unique_ptr<device::Graph> graph = stream->end_capture();
  const auto replay = [&](int32_t start, int32_t count) {
    segment[0] = start;
    segment[1] = count;
    stream->replay(*graph);
    stream->wait_idle(std::chrono::seconds(10));
    const auto* ids = args.ids.as<int32_t>();
    return std::vector<int32_t>(ids, ids + 3);
  };
  EXPECT_THAT(replay(0, 2), ElementsAre(1, 1, -1));
  EXPECT_THAT(replay(2, 1), ElementsAre(-1, -1, 1));
  EXPECT_THAT(replay(0, 0), ElementsAre(-1, -1, -1));
}

}  // namespace
}  // namespace weft::test
