#include <gmock/gmock.h>

#include <limits>
#include <numeric>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/philox.h"
#include "ops/sampling.h"
#include "support/ops_test.h"

namespace weft::test {
namespace {

using ops::SamplingRow;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<int32_t> draw(const HostTensor& logits, const std::vector<SamplingRow>& params,
                          int num_threads = 1, const int32_t* num_rows = nullptr) {
  HostTensor tokens(DType::kI32, {logits.shape(0)});
  tokens.fill(-77);
  InlineContext context(num_threads);
  ops::cpu::sample(
      {.tokens = tokens.view(), .logits = logits.view(), .params = params.data(), .num_rows = num_rows},
      context);
  std::vector<int32_t> result;
  for (int64_t r = 0; r < tokens.numel(); ++r) result.push_back(static_cast<int32_t>(tokens.get(r)));
  return result;
}

struct Drawn {
  int32_t token = 0;
  double margin = 1.0;  // how near, as a share of all mass, any decision was to going the other way
};

/// The rules of sampling.h, step by step on the sorted vocabulary, in f64.
Drawn reference(const std::vector<double>& logits, const SamplingRow& params) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  std::vector<double> p;
  for (const int32_t id : order) {
    p.push_back(std::exp((logits[static_cast<size_t>(id)] - logits[static_cast<size_t>(order[0])]) /
                         static_cast<double>(params.temperature)));
  }
  Drawn drawn;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < p.size())
    p.resize(static_cast<size_t>(params.top_k));
  const auto cut = [&](double share) {  // the first index at which the cumulative sum reaches the share
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    double cumulative = 0.0;
    for (size_t i = 0; i < p.size(); ++i) {
      cumulative += p[i];
      if (i + 1 < p.size()) drawn.margin = std::min(drawn.margin, std::abs(cumulative - share * sum) / sum);
      if (cumulative >= share * sum) return i;
    }
    return p.size() - 1;
  };
  if (params.top_p < 1.0F) p.resize(cut(static_cast<double>(params.top_p)) + 1);
  while (p.back() < static_cast<double>(params.min_p)) p.pop_back();
  for (const double x : p) {
    if (params.min_p > 0.0F)
      drawn.margin = std::min(drawn.margin, std::abs(x - static_cast<double>(params.min_p)));
  }
  drawn.token = order[cut(ops::philox_uniform(params.seed, params.position))];
  return drawn;
}

TEST(SampleTest, TokensAreKeptAndTargetsNamed) {
  const auto logits = HostTensor(DType::kF32, {4, 3}).fill_from({0, 1, 0, 2, 1, 0, 0, 0, 3, 0, 5, 0});
  const std::vector<SamplingRow> params(4, {.temperature = 0.0F});
  HostTensor tokens(DType::kI32, {4});
  auto last = HostTensor(DType::kI32, {3}).fill(-9);
  auto targets = HostTensor(DType::kI32, {4}).fill(-9);
  const auto slots = HostTensor(DType::kI32, {4}).fill_from({2, -1, 0, 1});
  const auto wanted = HostTensor(DType::kI32, {4}).fill_from({-1, -2, 1, -1});
  const int32_t num_rows = 3;
  InlineContext context;
  ops::cpu::sample({.tokens = tokens.view(),
                    .logits = logits.view(),
                    .params = params.data(),
                    .num_rows = &num_rows,
                    .last_tokens = last.view(),
                    .slots = slots.view(),
                    .wanted = wanted.view(),
                    .targets = targets.view()},
                   context);
  EXPECT_TRUE(near(last, {2, -9, 1}, 0.0, 0.0));
  EXPECT_TRUE(near(targets, {1, -1, 1, -9}, 0.0, 0.0));
}

TEST(PhiloxTest, GivesThePublishedNumbers) {
  EXPECT_THAT(ops::philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U));
  const uint32_t ones = 0xffffffffU;
  EXPECT_THAT(ops::philox4x32({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU));
  EXPECT_THAT(
      ops::philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}),
      ElementsAre(0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U));
}

TEST(SampleTest, GreedyTakesTheLowestIdAmongTheLargest) {
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    HostTensor logits(DType::kF32, {3, 37}, {40, 1});
    logits.fill_normal(1);
    logits.set({0, 36}, 9.0);
    logits.set({1, 5}, 9.0);
    logits.set({1, 36}, 9.0);
    logits.set({2, 0}, 9.0);
    EXPECT_THAT(draw(logits, std::vector<SamplingRow>(3, {.temperature = 0.0F})), ElementsAre(36, 5, 0));
  }
}

TEST(SampleTest, FollowsTheRulesStepByStep) {
  std::mt19937_64 generator(5);
  const std::vector<float> temperatures = {0.3F, 1.0F, 2.5F}, top_ps = {1.0F, 0.9F, 0.5F, 0.01F};
  const std::vector<float> min_ps = {0.0F, 0.05F, 0.7F, 1.0F};
  const std::vector<int32_t> top_ks = {0, 1, 2, 40, 100000};
  int compared = 0;
  for (int i = 0; i < 600; ++i) {
    const int64_t vocab = std::vector<int64_t>{1, 2, 37, 1000}[generator() % 4];
    HostTensor logits(DType::kF32, {1, vocab});
    logits.fill_normal(generator(), std::vector<double>{0.0, 0.5, 3.0, 20.0}[generator() % 4]);
    const SamplingRow params{.temperature = temperatures[generator() % temperatures.size()],
                             .top_p = top_ps[generator() % top_ps.size()],
                             .min_p = min_ps[generator() % min_ps.size()],
                             .top_k = top_ks[generator() % top_ks.size()],
                             .seed = generator(),
                             .position = static_cast<int64_t>(generator() % 100000)};
    std::vector<double> values;
    for (int64_t v = 0; v < vocab; ++v) values.push_back(logits.get(v));
    const Drawn expected = reference(values, params);
    if (expected.margin < 1e-6 && vocab > 2) continue;  // rounding may decide
    ++compared;
    EXPECT_EQ(draw(logits, {params})[0], expected.token)
        << "vocab " << vocab << ", temperature " << params.temperature << ", top_k " << params.top_k
        << ", top_p " << params.top_p << ", min_p " << params.min_p;
  }
  EXPECT_GT(compared, 400);
}

TEST(SampleTest, DrawsFromTheDistribution) {
  constexpr int kDraws = 40000;
  const std::vector<double> p = {0.5, 0.2, 0.15, 0.1, 0.04, 0.01};
  HostTensor logits(DType::kF32, {1, 6});
  for (size_t i = 0; i < p.size(); ++i) logits.set(static_cast<int64_t>(i), 2.0 * std::log(p[i]));
  // One seed over positions as in one request, and many seeds at one position.
  for (const bool by_position : {true, false}) {
    std::vector<int> counts(p.size(), 0);
    for (int i = 0; i < kDraws; ++i) {
      const SamplingRow params{.temperature = 2.0F,
                               .seed = by_position ? 42U : static_cast<uint64_t>(i),
                               .position = by_position ? i : 7};
      ++counts[static_cast<size_t>(draw(logits, {params})[0])];
    }
    double chi_square = 0.0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double expected = p[i] * kDraws;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, 20.5) << "by position: " << by_position;  // 5 degrees of freedom, 0.1 %
  }
}

TEST(SampleTest, ARowDependsOnItsOwnLogitsAndParametersAlone) {
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    HostTensor batch(DType::kF32, {20, 333});
    batch.fill_normal(9, 2.0);
    std::vector<SamplingRow> params;
    for (int i = 0; i < 20; ++i)
      params.push_back({.temperature = 0.1F * static_cast<float>(i), .seed = 3, .position = i});
    const std::vector<int32_t> together = draw(batch, params, 3);
    for (int64_t r = 0; r < 20; ++r) {
      HostTensor alone(DType::kF32, {1, 333}, {400, 1});
      for (int64_t v = 0; v < 333; ++v) alone.set(v, batch.at({r, v}));
      EXPECT_EQ(draw(alone, {params[static_cast<size_t>(r)]})[0], together[static_cast<size_t>(r)])
          << "row " << r;
    }
  }
}

TEST(SampleTest, ForbiddenTokensAreNeverDrawn) {
  HostTensor logits(DType::kF32, {1, 50});
  logits.fill(-kInfinity);
  logits.set(13, 0.0);
  logits.set(31, 0.5);
  for (int i = 0; i < 200; ++i) {
    const int32_t token = draw(logits, {{.temperature = 5.0F, .seed = 1, .position = i}})[0];
    EXPECT_TRUE(token == 13 || token == 31) << token;
  }
}

TEST(SampleTest, ARowWithoutADistributionGetsMinusOneAndOthersGoOn) {
  for (const float temperature : {0.0F, 1.0F}) {
    HostTensor logits(DType::kF32, {5, 33});
    logits.fill_normal(1);
    logits.set({0, 20}, std::nan(""));
    logits.set({2, 32}, kInfinity);
    for (int64_t v = 0; v < 33; ++v) logits.set({3, v}, -kInfinity);
    const std::vector<int32_t> tokens =
        draw(logits, std::vector<SamplingRow>(5, {.temperature = temperature}));
    EXPECT_EQ(tokens[0], -1);
    EXPECT_GE(tokens[1], 0);
    EXPECT_EQ(tokens[2], -1);
    EXPECT_EQ(tokens[3], -1);
    EXPECT_GE(tokens[4], 0);
  }
}

TEST(SampleTest, RowsBeyondTheCountAreNotTouched) {
  HostTensor logits(DType::kF32, {3, 8});  // all NaN
  logits.set({0, 3}, 1.0);
  for (int64_t v = 0; v < 8; ++v) logits.set({0, v}, v == 3 ? 1.0 : 0.0);
  const int32_t num_rows = 1;
  EXPECT_THAT(draw(logits, std::vector<SamplingRow>(3, {.temperature = 0.0F}), 2, &num_rows),
              ElementsAre(3, -77, -77));
}

struct Logprobs {
  HostTensor logprobs, top_ids, top_logprobs, logits, targets;
  std::vector<int32_t> num_top;

  Logprobs(int64_t rows, int64_t vocab, int64_t max_top)
      : logprobs(DType::kF32, {rows}),
        top_ids(DType::kI32, {rows, max_top}),
        top_logprobs(DType::kF32, {rows, max_top}),
        logits(DType::kF32, {rows, vocab}, {vocab + 1, 1}),
        targets(DType::kI32, {rows}),
        num_top(static_cast<size_t>(rows), 0) {
    logits.fill_normal(4, 3.0);
  }
  [[nodiscard]] ops::LogprobArgs args() const {
    return {.logprobs = logprobs.view(),
            .top_ids = top_ids.view(),
            .top_logprobs = top_logprobs.view(),
            .logits = logits.view(),
            .targets = targets.view(),
            .num_top = num_top.data()};
  }
};

TEST(LogprobsTest, MatchTheReferenceAtTargetsAndTops) {
  for (const ops::cpu::Isa isa : available_isas()) {
    const ops::cpu::IsaOverride use(isa);
    for (const int64_t vocab : {5, 77, 3000}) {
      Logprobs call(4, vocab, 5);
      call.targets.fill_from({0, -1, static_cast<double>(vocab - 1), 3});
      call.num_top = {0, 2, 5, 1};
      InlineContext context(2);
      ops::cpu::logprobs(call.args(), context);
      for (int64_t r = 0; r < 4; ++r) {
        std::vector<std::pair<double, int64_t>> order;
        double sum = 0.0;
        for (int64_t v = 0; v < vocab; ++v) {
          sum += std::exp(call.logits.at({r, v}));
          order.emplace_back(-call.logits.at({r, v}), v);
        }
        std::sort(order.begin(), order.end());
        const auto target = static_cast<int64_t>(call.targets.get(r));
        if (target < 0) {
          EXPECT_TRUE(std::isnan(call.logprobs.get(r)));
        } else {
          EXPECT_NEAR(call.logprobs.get(r), call.logits.at({r, target}) - std::log(sum), 3e-6);
        }
        for (int64_t i = 0; i < 5; ++i) {
          if (i >= call.num_top[static_cast<size_t>(r)]) {
            EXPECT_TRUE(std::isnan(call.top_logprobs.at({r, i})));
            continue;
          }
          EXPECT_EQ(call.top_ids.at({r, i}), static_cast<double>(order[static_cast<size_t>(i)].second));
          EXPECT_NEAR(call.top_logprobs.at({r, i}), -order[static_cast<size_t>(i)].first - std::log(sum),
                      3e-6);
        }
      }
    }
  }
}

TEST(LogprobsTest, EqualLogitsStandByRisingIdAndLargeOnesDoNotOverflow) {
  Logprobs call(1, 40, 3);
  call.logits.fill(1000.0);
  call.targets.fill(39);
  call.num_top = {3};
  InlineContext context;
  ops::cpu::logprobs(call.args(), context);
  EXPECT_NEAR(call.logprobs.get(0), -std::log(40.0), 1e-6);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(call.top_ids.get(i), static_cast<double>(i));
}

TEST(LogprobsTest, RowsBeyondTheCountAreNotTouched) {
  Logprobs call(3, 6, 2);
  call.targets.fill_from({1, 999, 999});
  call.num_top = {1, 999, 999};
  const int32_t num_rows = 1;
  ops::LogprobArgs args = call.args();
  args.num_rows = &num_rows;
  InlineContext context;
  ops::cpu::logprobs(args, context);
  EXPECT_FALSE(std::isnan(call.logprobs.get(0)));
  EXPECT_TRUE(std::isnan(call.logprobs.get(1)));
  EXPECT_TRUE(std::isnan(call.top_logprobs.at({1, 0})));
}

TEST(LogprobsTest, TargetsAndCountsOutOfRangeAreErrors) {
  const auto message = [](double target, int32_t num_top) -> std::string {
    Logprobs call(1, 6, 2);
    call.targets.fill(target);
    call.num_top = {num_top};
    InlineContext context;
    try {
      ops::cpu::logprobs(call.args(), context);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message(6, 0), HasSubstr("targets[0] is 6"));
  EXPECT_THAT(message(-2, 0), HasSubstr("targets[0] is -2"));
  EXPECT_THAT(message(0, 3), HasSubstr("num_top[0] is 3"));
}

TEST(SamplingStreamTest, RunsOnAStreamAndRefusesShapesThatDoNotFit) {
  const std::unique_ptr<device::Device> device = device::make_cpu_device({});
  const std::unique_ptr<device::Stream> stream = device->make_stream("compute");
  device::Buffer buffer = device->allocate(4096, "all");
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const ops::SampleArgs good{
      .tokens = buffer.view(DType::kI32, {2}, 0),
      .logits = buffer.view(DType::kF32, {2, 4}, 256),
      .params = static_cast<const SamplingRow*>(buffer.view(DType::kU8, {1}, 512).data)};
  auto* params = static_cast<SamplingRow*>(buffer.view(DType::kU8, {1}, 512).data);
  params[0] = params[1] = {.temperature = 0.0F};
  for (int i = 0; i < 8; ++i) good.logits.as<float>()[i] = static_cast<float>(i % 3);
  ops::sample(*stream, good);
  const ops::LogprobArgs logprobs{.logprobs = buffer.view(DType::kF32, {2}, 1024),
                                  .top_ids = {},
                                  .top_logprobs = {},
                                  .logits = good.logits,
                                  .targets = good.tokens};
  ops::logprobs(*stream, logprobs);
  stream->wait_idle(std::chrono::seconds(10));
  EXPECT_EQ(good.tokens.as<int32_t>()[0], 2);
  EXPECT_EQ(good.tokens.as<int32_t>()[1], 1);
  EXPECT_LT(logprobs.logprobs.as<float>()[0], 0.0F);

  ops::SampleArgs bad = good;
  bad.params = nullptr;
  EXPECT_THAT(message([&] { ops::sample(*stream, bad); }), HasSubstr("params is null"));
  bad = good;
  bad.tokens = buffer.view(DType::kI32, {3}, 0);
  EXPECT_THAT(message([&] { ops::sample(*stream, bad); }), HasSubstr("sample: tokens"));
  bad = good;
  bad.logits.dtype = DType::kBF16;
  EXPECT_THAT(message([&] { ops::sample(*stream, bad); }), HasSubstr("sample: logits"));
  bad = good;
  bad.slots = good.tokens;
  EXPECT_THAT(message([&] { ops::sample(*stream, bad); }), HasSubstr("go together"));
  ops::LogprobArgs wrong = logprobs;
  wrong.top_ids = buffer.view(DType::kI32, {2, 1}, 2048);
  EXPECT_THAT(message([&] { ops::logprobs(*stream, wrong); }), HasSubstr("go together"));
  wrong = logprobs;
  wrong.num_top = good.tokens.as<const int32_t>();
  EXPECT_THAT(message([&] { ops::logprobs(*stream, wrong); }), HasSubstr("num_top asks"));
}

}  // namespace
}  // namespace weft::test
