#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/elementwise.h"
#include "support/stream_ops.h"

namespace weft::ops {
namespace {

using test::available_isas;
using test::bit_equal;
using test::HostTensor;
using test::InlineContext;
using test::near;
using test::StreamOps;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr int64_t kWidths[] = {1, 4, 15, 16, 17, 100};

double silu(double x) { return x / (1.0 + std::exp(-x)); }

TEST(AddTest, RoundsTheExactSumOnceOnEveryInstructionSet) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const int64_t columns : kWidths) {
        const auto a = HostTensor(dtype, {3, columns}, {columns + 2, 1}).fill_normal(1);
        auto b = HostTensor(dtype, {3, columns}).fill_normal(2);
        HostTensor expected(dtype, {3, columns});
        for (int64_t i = 0; i < expected.numel(); ++i) expected.set(i, a.get(i) + b.get(i));
        InlineContext context(2);
        cpu::add({.out = b.view(), .a = a.view(), .b = b.view()}, context);  // out may be b
        EXPECT_TRUE(bit_equal(b, expected)) << cpu::isa_name(isa) << " " << dtype_name(dtype);
      }
    }
  }
}

TEST(CastTest, RoundsToNearestBetweenAllDTypesOnEveryInstructionSet) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType from : kDTypes) {
      for (const DType to : kDTypes) {
        for (const int64_t columns : kWidths) {
          auto x = HostTensor(from, {2, columns}, {columns + 1, 1}).fill_normal(3, 100.0);
          // Subnormals, overflow and infinities too.
          const double special[] = {1e-41, -6e-8, 1e6, 3e38, -INFINITY, 0.0};
          for (int64_t i = 0; i < std::min<int64_t>(6, columns); ++i) x.set(i, special[i]);
          HostTensor expected(to, {2, columns}, {columns + 3, 1});
          for (int64_t i = 0; i < expected.numel(); ++i) expected.set(i, x.get(i));
          HostTensor out(to, {2, columns}, {columns + 3, 1});
          InlineContext context;
          cpu::cast({.out = out.view(), .x = x.view()}, context);
          EXPECT_TRUE(bit_equal(out, expected))
              << cpu::isa_name(isa) << " " << dtype_name(from) << " to " << dtype_name(to);
        }
      }
    }
  }
}

TEST(CastTest, ANanStaysANan) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    const auto x = HostTensor(DType::kF32, {1, 20}).fill(NAN);
    for (const DType to : kDTypes) {
      HostTensor out = HostTensor(to, {1, 20}).fill(0.0);
      InlineContext context;
      cpu::cast({.out = out.view(), .x = x.view()}, context);
      EXPECT_TRUE(near(out, std::vector<double>(20, NAN), 0.0, 0.0));
    }
  }
}

TEST(SiluMulTest, MatchesDoublePrecision) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const int64_t inter : kWidths) {
        const auto x = HostTensor(dtype, {3, 2 * inter}, {2 * inter + 1, 1}).fill_normal(4, 4.0);
        HostTensor out(dtype, {3, inter}, {inter + 2, 1});
        std::vector<double> expected;
        for (int64_t r = 0; r < 3; ++r) {
          for (int64_t c = 0; c < inter; ++c) expected.push_back(silu(x.at({r, c})) * x.at({r, inter + c}));
        }
        InlineContext context(2);
        cpu::silu_mul({.out = out.view(), .gate_up = x.view()}, context);
        EXPECT_TRUE(near(out, expected, test::unit_roundoff(dtype) + 1e-6, 1e-7))
            << cpu::isa_name(isa) << " " << dtype_name(dtype);
      }
    }
  }
}

TEST(SiluMulTest, LargeGatesNeitherOverflowNorTurnNan) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    const auto x = HostTensor(DType::kF32, {1, 8}).fill_from({-1000, -90, 90, 1000, 2, 2, 2, 2});
    HostTensor out(DType::kF32, {1, 4});
    InlineContext context;
    cpu::silu_mul({.out = out.view(), .gate_up = x.view()}, context);
    EXPECT_TRUE(near(out, {0, 0, 180, 2000}, 1e-6, 1e-30));
  }
}

TEST(SiluMulTest, ComputesOnlyTheRowsThatDeviceMemoryCounts) {
  StreamOps ops;
  const auto x = HostTensor(DType::kBF16, {3, 4, 10}).fill_normal(5);
  const TensorView counts = ops.upload(HostTensor(DType::kI32, {3}).fill_from({4, 0, 2}));
  const TensorView out = ops.upload(HostTensor(DType::kBF16, {3, 4, 5}));
  silu_mul(ops.stream(), {.out = out, .gate_up = ops.upload(x), .num_rows = counts.as<int32_t>()});
  const HostTensor result = ops.download(out);
  for (int64_t g = 0; g < 3; ++g) {
    const int64_t rows = g == 0 ? 4 : g == 1 ? 0 : 2;
    for (int64_t r = 0; r < 4; ++r) {
      EXPECT_EQ(std::isnan(result.at({g, r, 4})), r >= rows) << g << ", " << r;
    }
  }
  const TensorView one = ops.upload(HostTensor(DType::kI32, {1}).fill(2));
  const TensorView flat = ops.upload(HostTensor(DType::kBF16, {4, 5}));
  silu_mul(
      ops.stream(),
      {.out = flat, .gate_up = ops.upload(x).rows(0, 1).reshape({4, 10}), .num_rows = one.as<int32_t>()});
  const HostTensor prefix = ops.download(flat);
  EXPECT_FALSE(std::isnan(prefix.at({1, 0})));
  EXPECT_TRUE(std::isnan(prefix.at({2, 0})));
}

TEST(SiluMulTest, FailsOnACountBeyondTheRows) {
  StreamOps ops;
  const TensorView count = ops.upload(HostTensor(DType::kI32, {1}).fill(5));
  silu_mul(ops.stream(), {.out = ops.upload(HostTensor(DType::kF32, {4, 5})),
                          .gate_up = ops.upload(HostTensor(DType::kF32, {4, 10})),
                          .num_rows = count.as<int32_t>()});
  EXPECT_THAT([&] { ops.wait(); },
              ThrowsMessage<Error>(HasSubstr("silu_mul: num_rows[0]=5 is outside gate_up = f32[4, 10]")));
}

TEST(ElementwiseTest, RunOnAStream) {
  StreamOps ops;
  const auto a = HostTensor(DType::kF32, {2, 5}).fill_normal(6);
  const TensorView x = ops.upload(a);
  const TensorView out = ops.upload(HostTensor(DType::kBF16, {2, 5}));
  add(ops.stream(), {.out = x, .a = x, .b = x});
  cast(ops.stream(), {.out = out, .x = x});
  std::vector<double> expected;
  for (int64_t i = 0; i < 10; ++i) expected.push_back(2 * a.get(i));
  EXPECT_TRUE(near(ops.download(out), expected, test::unit_roundoff(DType::kBF16), 0.0));
}

TEST(ElementwiseTest, NoRowsIsNoOp) {
  StreamOps ops;
  const TensorView none = device::make_view(nullptr, DType::kF32, {0, 8});
  ops.stream().begin_capture();
  add(ops.stream(), {.out = none, .a = none, .b = none});
  cast(ops.stream(), {.out = none, .x = none});
  silu_mul(ops.stream(), {.out = device::make_view(nullptr, DType::kF32, {0, 4}), .gate_up = none});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

TEST(ElementwiseTest, RejectArgumentsThatDoNotFit) {
  StreamOps ops;
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, dtype, shape);
  };
  const TensorView x = view(DType::kF32, {2, 6});
  EXPECT_THAT(
      [&] {
        add(ops.stream(), {.out = x, .a = x, .b = view(DType::kF32, {2, 5})});
      },
      ThrowsMessage<Error>(HasSubstr("add: b is f32[2, 5]; its shape must be [2, 6]")));
  EXPECT_THAT(
      [&] {
        cast(ops.stream(), {.out = view(DType::kI32, {2, 6}), .x = x});
      },
      ThrowsMessage<Error>(HasSubstr("cast: out is i32[2, 6]; its dtype must be f32, bf16 or f16")));
  EXPECT_THAT([&] { silu_mul(ops.stream(), {.out = x, .gate_up = x}); },
              ThrowsMessage<Error>(HasSubstr("silu_mul: out is f32[2, 6]; its shape must be [2, 3]")));
  EXPECT_THAT(
      [&] {
        silu_mul(ops.stream(), {.out = x, .gate_up = view(DType::kF32, {2, 5})});
      },
      ThrowsMessage<Error>(HasSubstr("silu_mul: gate_up is f32[2, 5]; its last dimension must be even")));
}

}  // namespace
}  // namespace weft::ops
