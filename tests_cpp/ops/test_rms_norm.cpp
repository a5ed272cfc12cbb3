#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/rms_norm.h"
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
constexpr float kEps = 1e-5F;

/// Normalised rows of `x` in f64; the last dimension is the one of the norm.
std::vector<double> reference(const HostTensor& x, const HostTensor& weight) {
  const int64_t dim = weight.numel();
  std::vector<double> out;
  for (int64_t r = 0; r < x.numel() / dim; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < dim; ++c) squares += x.get(r * dim + c) * x.get(r * dim + c);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(kEps));
    for (int64_t c = 0; c < dim; ++c) out.push_back(x.get(r * dim + c) * scale * weight.get(c));
  }
  return out;
}

TEST(RmsNormTest, MatchesDoublePrecisionOnOddWidthsAndStrides) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const int64_t dim : {1, 7, 16, 63, 64, 65, 200}) {
        SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " " + std::string(dtype_name(dtype)) +
                     " dim=" + std::to_string(dim));
        const auto weight = HostTensor(dtype, {dim}).fill_normal(1);
        InlineContext context(2);
        const double relative = test::unit_roundoff(dtype) + 1e-6;

        const auto x = HostTensor(dtype, {3, dim}, {dim + 3, 1}).fill_normal(2);
        HostTensor out(dtype, {3, dim}, {dim + 1, 1});
        cpu::rms_norm({.out = out.view(), .x = x.view(), .weight = weight.view(), .eps = kEps}, context);
        EXPECT_TRUE(near(out, reference(x, weight), relative, 1e-7));

        // Heads inside a wider row, in place, as q and k norms run on the fused qkv.
        auto heads = HostTensor(dtype, {3, 2, dim}, {5 * dim, dim + 1, 1}).fill_normal(3);
        const std::vector<double> expected = reference(heads, weight);
        cpu::rms_norm({.out = heads.view(), .x = heads.view(), .weight = weight.view(), .eps = kEps},
                      context);
        EXPECT_TRUE(near(heads, expected, relative, 1e-7));
      }
    }
  }
}

TEST(RmsNormTest, ARowOfZerosStaysZero) {
  const auto x = HostTensor(DType::kF32, {1, 20}).fill(0.0);
  const auto weight = HostTensor(DType::kF32, {20}).fill(2.0);
  HostTensor out(DType::kF32, {1, 20});
  InlineContext context;
  cpu::rms_norm({.out = out.view(), .x = x.view(), .weight = weight.view(), .eps = kEps}, context);
  EXPECT_TRUE(near(out, std::vector<double>(20, 0.0), 0.0, 0.0));
}

TEST(RmsNormTest, ARowDependsOnNothingButItself) {
  const auto x = HostTensor(DType::kBF16, {40, 130}).fill_normal(4);
  const auto weight = HostTensor(DType::kBF16, {130}).fill_normal(5);
  InlineContext one(1);
  InlineContext three(3);
  HostTensor all(DType::kBF16, {40, 130});
  cpu::rms_norm({.out = all.view(), .x = x.view(), .weight = weight.view(), .eps = kEps}, three);
  HostTensor single(DType::kBF16, {40, 130});
  for (int64_t r = 0; r < 40; ++r) {
    cpu::rms_norm(
        {.out = single.view().rows(r, 1), .x = x.view().rows(r, 1), .weight = weight.view(), .eps = kEps},
        one);
  }
  EXPECT_TRUE(bit_equal(all, single));
}

TEST(AddRmsNormTest, NormsTheRoundedSumAndKeepsIt) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      const auto weight = HostTensor(dtype, {75}).fill_normal(6);
      auto x = HostTensor(dtype, {4, 75}, {80, 1}).fill_normal(7);
      auto residual = HostTensor(dtype, {4, 75}).fill_normal(8);
      HostTensor sum(dtype, {4, 75});
      for (int64_t i = 0; i < sum.numel(); ++i) sum.set(i, x.get(i) + residual.get(i));
      InlineContext context(2);
      // out may be x itself.
      cpu::add_rms_norm(
          {.out = x.view(), .residual = residual.view(), .x = x.view(), .weight = weight.view(), .eps = kEps},
          context);
      EXPECT_TRUE(bit_equal(residual, sum));
      EXPECT_TRUE(near(x, reference(sum, weight), test::unit_roundoff(dtype) + 1e-6, 1e-7));
    }
  }
}

TEST(RmsNormTest, RunsOnAStream) {
  StreamOps ops;
  const auto x = HostTensor(DType::kF32, {3, 2, 8}).fill_normal(9);
  const auto weight = HostTensor(DType::kF32, {8}).fill_normal(10);
  const TensorView out = ops.upload(HostTensor(DType::kF32, {3, 2, 8}));
  rms_norm(ops.stream(), {.out = out, .x = ops.upload(x), .weight = ops.upload(weight), .eps = kEps});
  EXPECT_TRUE(near(ops.download(out), reference(x, weight), 1e-6, 1e-7));

  const TensorView rows = ops.upload(HostTensor(x).fill(1.0)).rows(0, 1).reshape({2, 8});
  const TensorView residual = ops.upload(HostTensor(DType::kF32, {2, 8}).fill(0.0));
  add_rms_norm(ops.stream(),
               {.out = rows, .residual = residual, .x = rows, .weight = ops.upload(weight), .eps = kEps});
  EXPECT_TRUE(near(ops.download(residual), std::vector<double>(16, 1.0), 0.0, 0.0));
}

TEST(RmsNormTest, NoRowsIsNoOp) {
  StreamOps ops;
  const TensorView none = device::make_view(nullptr, DType::kF32, {0, 8});
  const TensorView weight = ops.upload(HostTensor(DType::kF32, {8}));
  ops.stream().begin_capture();
  rms_norm(ops.stream(), {.out = none, .x = none, .weight = weight});
  add_rms_norm(ops.stream(), {.out = none, .residual = none, .x = none, .weight = weight});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

TEST(RmsNormTest, RejectsArgumentsThatDoNotFit) {
  StreamOps ops;
  const TensorView x = device::make_view(nullptr, DType::kF32, {3, 8});
  const TensorView weight = device::make_view(nullptr, DType::kF32, {7});
  EXPECT_THAT([&] { rms_norm(ops.stream(), {.out = x, .x = x, .weight = weight}); },
              ThrowsMessage<Error>(HasSubstr("rms_norm: weight is f32[7]; its shape must be [8]")));
  EXPECT_THAT([&] { rms_norm(ops.stream(), {.out = x, .x = weight, .weight = weight}); },
              ThrowsMessage<Error>(HasSubstr("rms_norm: x is f32[7]; it must be [rows, dim] or")));
  EXPECT_THAT([&] { add_rms_norm(ops.stream(), {.out = x, .residual = weight, .x = x, .weight = weight}); },
              ThrowsMessage<Error>(HasSubstr("add_rms_norm: residual is f32[7]; its shape must be [3, 8]")));
}

}  // namespace
}  // namespace weft::ops
