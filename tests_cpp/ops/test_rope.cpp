#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/rope.h"
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

/// cos and sin of position * 10000^(-2i / rope_dim).
HostTensor make_table(int64_t positions, int64_t rope_dim) {
  HostTensor table(DType::kF32, {positions, rope_dim});
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < rope_dim / 2; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim);
      const double angle = static_cast<double>(p) * std::pow(10000.0, exponent);
      table.set({p, i}, std::cos(angle));
      table.set({p, rope_dim / 2 + i}, std::sin(angle));
    }
  }
  return table;
}

std::vector<double> reference(const HostTensor& x, const std::vector<int64_t>& positions,
                              const HostTensor& table, bool interleaved) {
  const int64_t dim = x.shape(2);
  const int64_t half = dim / 2;
  std::vector<double> out(x.numel());
  for (int64_t t = 0; t < x.shape(0); ++t) {
    for (int64_t h = 0; h < x.shape(1); ++h) {
      const int64_t row = (t * x.shape(1) + h) * dim;
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = row + (interleaved ? 2 * i : i);
        const int64_t second = row + (interleaved ? 2 * i + 1 : half + i);
        const double cos = positions[t] < 0 ? 1.0 : table.at({positions[t], i});
        const double sin = positions[t] < 0 ? 0.0 : table.at({positions[t], half + i});
        out[first] = x.get(first) * cos - x.get(second) * sin;
        out[second] = x.get(second) * cos + x.get(first) * sin;
      }
    }
  }
  return out;
}

TEST(RopeTest, RotatesBothPairingsInPlaceAndLeavesPaddingRowsAlone) {
  const std::vector<int64_t> positions = {0, 31, -1, 7};
  const auto positions_tensor = HostTensor(DType::kI32, {4}).fill_from({0, 31, -1, 7});
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int64_t dim : {2, 6, 32, 34, 64}) {
        for (const bool interleaved : {false, true}) {
          SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " " + std::string(dtype_name(dtype)) +
                       " dim=" + std::to_string(dim) + (interleaved ? " interleaved" : ""));
          const HostTensor table = make_table(32, dim);
          // The rope columns behind the others of each head, as in MLA.
          auto q = HostTensor(dtype, {4, 3, dim}, {3 * (dim + 5), dim + 5, 1}).fill_normal(1);
          auto k = HostTensor(dtype, {4, 1, dim}, {dim + 9, dim, 1}).fill_normal(2);
          const std::vector<double> expected_q = reference(q, positions, table, interleaved);
          const std::vector<double> expected_k = reference(k, positions, table, interleaved);
          InlineContext context(2);
          cpu::rope({.q = q.view(),
                     .k = k.view(),
                     .positions = positions_tensor.view(),
                     .cos_sin = table.view(),
                     .interleaved = interleaved},
                    context);
          EXPECT_TRUE(near(q, expected_q, test::unit_roundoff(dtype), 1e-6));
          EXPECT_TRUE(near(k, expected_k, test::unit_roundoff(dtype), 1e-6));
        }
      }
    }
  }
}

TEST(RopeTest, ARowDependsOnNothingButItself) {
  const HostTensor table = make_table(64, 64);
  const auto q = HostTensor(DType::kF32, {20, 16, 64}).fill_normal(3);
  const auto k = HostTensor(DType::kF32, {20, 2, 64}).fill_normal(4);
  const auto positions = HostTensor(DType::kI32, {20}).fill_integers(5, 0, 63);
  HostTensor q_all(q);
  HostTensor k_all(k);
  HostTensor q_single(q);
  HostTensor k_single(k);
  InlineContext one(1);
  InlineContext three(3);
  cpu::rope({.q = q_all.view(), .k = k_all.view(), .positions = positions.view(), .cos_sin = table.view()},
            three);
  for (int64_t t = 0; t < 20; ++t) {
    cpu::rope({.q = q_single.view().rows(t, 1),
               .k = k_single.view().rows(t, 1),
               .positions = positions.view().rows(t, 1),
               .cos_sin = table.view()},
              one);
  }
  EXPECT_TRUE(bit_equal(q_all, q_single));
  EXPECT_TRUE(bit_equal(k_all, k_single));
}

TEST(RopeTest, RunsOnAStreamAndFailsOnAPositionBeyondTheTable) {
  const HostTensor table = make_table(4, 8);
  const auto q = HostTensor(DType::kF32, {2, 1, 8}).fill_normal(6);
  {
    StreamOps ops;
    const TensorView rotated = ops.upload(q);
    rope(ops.stream(), {.q = rotated,
                        .k = ops.upload(q),
                        .positions = ops.upload(HostTensor(DType::kI32, {2}).fill_from({3, 1})),
                        .cos_sin = ops.upload(table)});
    EXPECT_TRUE(near(ops.download(rotated), reference(q, {3, 1}, table, false), 0.0, 1e-6));
  }
  StreamOps ops;
  rope(ops.stream(), {.q = ops.upload(q),
                      .k = ops.upload(q),
                      .positions = ops.upload(HostTensor(DType::kI32, {2}).fill_from({3, 4})),
                      .cos_sin = ops.upload(table)});
  EXPECT_THAT([&] { ops.wait(); },
              ThrowsMessage<Error>(HasSubstr("rope: positions[1]=4 is outside cos_sin = f32[4, 8]")));
}

TEST(RopeTest, NoTokensIsNoOp) {
  StreamOps ops;
  const TensorView none = device::make_view(nullptr, DType::kF32, {0, 2, 8});
  ops.stream().begin_capture();
  rope(ops.stream(), {.q = none,
                      .k = none,
                      .positions = device::make_view(nullptr, DType::kI32, {0}),
                      .cos_sin = ops.upload(make_table(4, 8))});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

TEST(RopeTest, RejectsArgumentsThatDoNotFit) {
  StreamOps ops;
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, dtype, shape);
  };
  const TensorView q = view(DType::kBF16, {3, 2, 8});
  const TensorView positions = view(DType::kI32, {3});
  const TensorView table = view(DType::kF32, {16, 8});
  const auto run = [&](const RopeArgs& args) { return [&ops, args] { rope(ops.stream(), args); }; };
  EXPECT_THAT(run({.q = q, .k = view(DType::kBF16, {3, 2, 6}), .positions = positions, .cos_sin = table}),
              ThrowsMessage<Error>(HasSubstr("rope: k is bf16[3, 2, 6]; its shape must be [3, any, 8]")));
  EXPECT_THAT(run({.q = q, .k = q, .positions = positions, .cos_sin = view(DType::kBF16, {16, 8})}),
              ThrowsMessage<Error>(HasSubstr("rope: cos_sin is bf16[16, 8]; its dtype must be f32")));
  const TensorView odd = view(DType::kBF16, {3, 2, 7});
  EXPECT_THAT(run({.q = odd, .k = odd, .positions = positions, .cos_sin = table}),
              ThrowsMessage<Error>(HasSubstr("rope: q is bf16[3, 2, 7]; rope_dim must be even")));
}

}  // namespace
}  // namespace weft::ops
