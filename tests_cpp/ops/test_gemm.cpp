#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/gemm.h"
#include "support/ops_test.h"
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

struct Shape {
  int64_t m, n, k;
};
// Tails of every tile: fewer rows and columns than one, k below a vector and past a block of k.
constexpr Shape kShapes[] = {{1, 1, 1},      {1, 5, 7},   {2, 3, 0},     {3, 4, 33},  {7, 67, 65},
                             {13, 130, 100}, {6, 9, 257}, {5, 18, 2100}, {99, 20, 40}};

std::string describe(cpu::Isa isa, DType dtype, const Shape& shape) {
  return std::string(cpu::isa_name(isa)) + " " + std::string(dtype_name(dtype)) +
         " m=" + std::to_string(shape.m) + " n=" + std::to_string(shape.n) + " k=" + std::to_string(shape.k);
}

/// a * w^T + bias in f64, row-major.
std::vector<double> reference(const HostTensor& a, const HostTensor& w, const HostTensor* bias = nullptr) {
  std::vector<double> out;
  for (int64_t i = 0; i < a.shape(0); ++i) {
    for (int64_t j = 0; j < w.shape(0); ++j) {
      double sum = bias == nullptr ? 0.0 : bias->get(j);
      for (int64_t p = 0; p < a.shape(1); ++p) sum += a.at({i, p}) * w.at({j, p});
      out.push_back(sum);
    }
  }
  return out;
}

double tolerance(int64_t k) { return 1e-6 * static_cast<double>(k + 1); }

TEST(GemmTest, MatchesDoublePrecisionOnOddShapesAndStrides) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const Shape& s : kShapes) {
        SCOPED_TRACE(describe(isa, dtype, s));
        const auto a = HostTensor(dtype, {s.m, s.k}, {s.k + 3, 1}).fill_normal(1);
        const auto w = HostTensor(dtype, {s.n, s.k}, {s.k + 1, 1}).fill_normal(2);
        const auto bias = HostTensor(dtype, {s.n}).fill_normal(3);
        InlineContext context;
        HostTensor out(DType::kF32, {s.m, s.n});
        cpu::gemm({.out = out.view(), .a = a.view(), .w = w.view(), .bias = {}}, context);
        EXPECT_TRUE(near(out, reference(a, w), 0.0, tolerance(s.k)));

        HostTensor narrow(dtype, {s.m, s.n}, {s.n + 2, 1});
        cpu::gemm({.out = narrow.view(), .a = a.view(), .w = w.view(), .bias = bias.view()}, context);
        EXPECT_TRUE(near(narrow, reference(a, w, &bias), test::unit_roundoff(dtype), tolerance(s.k)));
      }
    }
  }
}

TEST(GemmTest, ARowDependsOnNothingButItself) {
  constexpr int64_t kRows = 37;
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const Shape& s : {Shape{kRows, 83, 75}, Shape{kRows, 6, 4099}}) {
        SCOPED_TRACE(describe(isa, dtype, s));
        const auto a = HostTensor(dtype, {s.m, s.k}).fill_normal(4);
        const auto w = HostTensor(dtype, {s.n, s.k}).fill_normal(5);
        InlineContext one(1);
        InlineContext three(3);
        HostTensor all(dtype, {s.m, s.n});
        cpu::gemm({.out = all.view(), .a = a.view(), .w = w.view(), .bias = {}}, one);

        HostTensor threads(dtype, {s.m, s.n});
        cpu::gemm({.out = threads.view(), .a = a.view(), .w = w.view(), .bias = {}}, three);
        EXPECT_TRUE(bit_equal(all, threads));

        HostTensor single(dtype, {s.m, s.n});
        for (int64_t i = 0; i < s.m; ++i) {
          cpu::gemm({.out = single.view().rows(i, 1), .a = a.view().rows(i, 1), .w = w.view(), .bias = {}},
                    three);
        }
        EXPECT_TRUE(bit_equal(all, single));

        // Other counts of rows, starting anywhere, give every row every place in a tile.
        for (int64_t count = 2; count < 12; ++count) {
          HostTensor part(dtype, {s.m, s.n});
          for (int64_t i = 0; i < s.m; i += count) {
            const int64_t rows = std::min(count, s.m - i);
            cpu::gemm(
                {.out = part.view().rows(i, rows), .a = a.view().rows(i, rows), .w = w.view(), .bias = {}},
                one);
          }
          ASSERT_TRUE(bit_equal(all, part)) << count << " rows at a time";
        }
      }
    }
  }
}

TEST(GemmTest, AColumnDependsOnNothingButItself) {
  const auto a = HostTensor(DType::kBF16, {9, 130}).fill_normal(6);
  const auto w = HostTensor(DType::kBF16, {71, 130}).fill_normal(7);
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    InlineContext context;
    HostTensor all(DType::kF32, {9, 71});
    cpu::gemm({.out = all.view(), .a = a.view(), .w = w.view(), .bias = {}}, context);
    for (const int64_t begin : {1, 2, 64, 70}) {
      HostTensor part(DType::kF32, {9, 71});
      cpu::gemm({.out = part.view().columns(begin, 71 - begin),
                 .a = a.view(),
                 .w = w.view().rows(begin, 71 - begin),
                 .bias = {}},
                context);
      for (int64_t i = 0; i < 9; ++i) {
        for (int64_t j = begin; j < 71; ++j) {
          ASSERT_EQ(all.bits(i * 71 + j), part.bits(i * 71 + j)) << i << ", " << j << " from " << begin;
        }
      }
    }
  }
}

TEST(GemmTest, RunsOnAStreamAndInAGraph) {
  StreamOps ops;
  const auto a = HostTensor(DType::kBF16, {5, 64}).fill_normal(8);
  const auto w = HostTensor(DType::kBF16, {33, 64}).fill_normal(9);
  const TensorView out = ops.upload(HostTensor(DType::kF32, {5, 33}));
  const GemmArgs args = {.out = out, .a = ops.upload(a), .w = ops.upload(w), .bias = {}};
  gemm(ops.stream(), args);
  EXPECT_TRUE(near(ops.download(out), reference(a, w), 0.0, tolerance(64)));

  ops.stream().fill(out.data, 0xff, out.span_bytes());
  ops.stream().begin_capture();
  gemm(ops.stream(), args);
  const auto graph = ops.stream().end_capture();
  ops.stream().replay(*graph);
  EXPECT_TRUE(near(ops.download(out), reference(a, w), 0.0, tolerance(64)));
}

TEST(GemmTest, AnEmptyProductIsNoOp) {
  StreamOps ops;
  const TensorView w = device::make_view(nullptr, DType::kF32, {0, 8});
  const TensorView a = device::make_view(nullptr, DType::kF32, {3, 8});
  ops.stream().begin_capture();
  gemm(ops.stream(), {.out = device::make_view(nullptr, DType::kF32, {3, 0}), .a = a, .w = w, .bias = {}});
  EXPECT_EQ(ops.stream().end_capture()->num_ops(), 0U);
}

TEST(GemmTest, RejectsArgumentsThatDoNotFit) {
  StreamOps ops;
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return device::make_view(nullptr, dtype, shape);
  };
  const TensorView a = view(DType::kBF16, {3, 8});
  const TensorView w = view(DType::kBF16, {5, 8});
  const TensorView out = view(DType::kF32, {3, 5});
  const auto run = [&](const GemmArgs& args) { return [&ops, args] { gemm(ops.stream(), args); }; };
  EXPECT_THAT(run({.out = out, .a = a, .w = view(DType::kBF16, {5, 9}), .bias = {}}),
              ThrowsMessage<Error>(HasSubstr("gemm: w is bf16[5, 9]; its shape must be [any, 8]")));
  EXPECT_THAT(run({.out = out, .a = a, .w = view(DType::kF16, {5, 8}), .bias = {}}),
              ThrowsMessage<Error>(HasSubstr("gemm: w is f16[5, 8]; its dtype must be bf16")));
  EXPECT_THAT(run({.out = view(DType::kF16, {3, 5}), .a = a, .w = w, .bias = {}}),
              ThrowsMessage<Error>(HasSubstr("gemm: out is f16[3, 5]; its dtype must be f32 or bf16")));
  EXPECT_THAT(run({.out = out, .a = view(DType::kI32, {3, 8}), .w = w, .bias = {}}),
              ThrowsMessage<Error>(HasSubstr("gemm: a is i32[3, 8]; its dtype must be f32, bf16 or f16")));
  EXPECT_THAT(run({.out = out, .a = a, .w = w, .bias = view(DType::kBF16, {4})}),
              ThrowsMessage<Error>(HasSubstr("gemm: bias is bf16[4]; its shape must be [5]")));
  TensorView overlapping = out;
  overlapping.stride[0] = 4;
  EXPECT_THAT(run({.out = overlapping, .a = a, .w = w, .bias = {}}),
              ThrowsMessage<Error>(HasSubstr("gemm: rows of out")));
  TensorView columns = a;
  columns.stride = {1, 3};
  EXPECT_THAT(run({.out = out, .a = columns, .w = w, .bias = {}}),
              ThrowsMessage<Error>(HasSubstr("gemm: a is bf16[3, 8] with stride 3 in its last dimension")));
}

/// [m, batch, n] = a[m, batch, k] times w[batch, n, k], in f64.
std::vector<double> batched_reference(const HostTensor& a, const HostTensor& w) {
  std::vector<double> out;
  for (int64_t i = 0; i < a.shape(0); ++i) {
    for (int64_t b = 0; b < a.shape(1); ++b) {
      for (int64_t j = 0; j < w.shape(1); ++j) {
        double sum = 0;
        for (int64_t p = 0; p < a.shape(2); ++p) sum += a.at({i, b, p}) * w.at({b, j, p});
        out.push_back(sum);
      }
    }
  }
  return out;
}

/// Strides of w [batch, n, k]: dense in k, dense in n, dense in neither.
std::vector<HostTensor::Index> weight_strides(int64_t n, int64_t k) {
  return {{n * k, k, 1}, {n * k + 5, 1, n}, {2 * n * k, 2 * k, 2}};
}

TEST(BatchedGemmTest, MatchesDoublePrecisionWhateverTheStridesOfTheWeights) {
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const Shape& s :
           {Shape{1, 5, 7}, Shape{3, 300, 70}, Shape{27, 33, 130}, Shape{7, 1, 4}, Shape{2, 4, 0}}) {
        for (const HostTensor::Index& stride : weight_strides(s.n, s.k)) {
          SCOPED_TRACE(describe(isa, dtype, s) + " stride " + std::to_string(stride[1]));
          const int64_t batch = 3;
          // As MLA passes them: heads of a wider row in, heads of a wider row out.
          const auto a =
              HostTensor(dtype, {s.m, batch, s.k}, {batch * (s.k + 2), s.k + 2, 1}).fill_normal(10);
          const auto w = HostTensor(dtype, {batch, s.n, s.k}, stride).fill_normal(11);
          HostTensor out(dtype, {s.m, batch, s.n}, {batch * (s.n + 1), s.n + 1, 1});
          InlineContext context(2);
          cpu::batched_gemm({.out = out.view(), .a = a.view(), .w = w.view()}, context);
          EXPECT_TRUE(near(out, batched_reference(a, w), test::unit_roundoff(dtype), tolerance(s.k)));
        }
      }
    }
  }
}

TEST(BatchedGemmTest, ARowDependsOnNothingButItself) {
  constexpr int64_t kRows = 29;
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      for (const HostTensor::Index& stride : weight_strides(270, 129)) {
        SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " stride " + std::to_string(stride[1]));
        const auto a = HostTensor(dtype, {kRows, 2, 129}).fill_normal(12);
        const auto w = HostTensor(dtype, {2, 270, 129}, stride).fill_normal(13);
        InlineContext one(1);
        InlineContext three(3);
        HostTensor all(DType::kF32, {kRows, 2, 270});
        cpu::batched_gemm({.out = all.view(), .a = a.view(), .w = w.view()}, three);
        for (const int64_t count : {1, 2, 5, 7}) {
          HostTensor part(DType::kF32, {kRows, 2, 270});
          for (int64_t i = 0; i < kRows; i += count) {
            const int64_t rows = std::min(count, kRows - i);
            cpu::batched_gemm({.out = part.view().rows(i, rows), .a = a.view().rows(i, rows), .w = w.view()},
                              one);
          }
          ASSERT_TRUE(bit_equal(all, part)) << count << " rows at a time";
        }
      }
    }
  }
}

TEST(GroupedGemmTest, ContiguousGroupsEqualOneGemmEachAndLeaveOtherRowsAlone) {
  constexpr int64_t kN = 37;
  constexpr int64_t kK = 70;
  // Rows 0 and 1 and the last three belong to no group; groups 1 and 4 are empty.
  HostTensor offsets(DType::kI32, {6});
  offsets.fill_from({2, 9, 9, 10, 23, 23});
  for (const cpu::Isa isa : available_isas()) {
    const cpu::IsaOverride override_isa(isa);
    for (const DType dtype : kDTypes) {
      SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " " + std::string(dtype_name(dtype)));
      const auto a = HostTensor(dtype, {26, kK}).fill_normal(14);
      const auto w = HostTensor(dtype, {5, kN, kK}).fill_normal(15);
      InlineContext one(1);
      InlineContext three(3);
      HostTensor out(dtype, {26, kN});
      cpu::grouped_gemm({.out = out.view(),
                         .a = a.view(),
                         .w = w.view(),
                         .offsets = offsets.view().as<int32_t>(),
                         .counts = nullptr},
                        three);
      HostTensor expected(dtype, {26, kN});
      for (int64_t g = 0; g < 5; ++g) {
        const auto begin = static_cast<int64_t>(offsets.get(g));
        const int64_t rows = static_cast<int64_t>(offsets.get(g + 1)) - begin;
        if (rows == 0) continue;
        cpu::gemm({.out = expected.view().rows(begin, rows),
                   .a = a.view().rows(begin, rows),
                   .w = w.view().rows(g, 1).reshape({kN, kK}),
                   .bias = {}},
                  one);
      }
      EXPECT_TRUE(bit_equal(out, expected));
    }
  }
}

TEST(GroupedGemmTest, MaskedGroupsEqualOneGemmEachAndLeaveOtherRowsAlone) {
  constexpr int64_t kN = 20;
  constexpr int64_t kK = 33;
  HostTensor counts(DType::kI32, {4});
  counts.fill_from({3, 0, 8, 1});
  const auto a = HostTensor(DType::kBF16, {4, 8, kK}).fill_normal(16);
  const auto w = HostTensor(DType::kBF16, {4, kN, kK}).fill_normal(17);
  InlineContext context(2);
  HostTensor out(DType::kBF16, {4, 8, kN});
  cpu::grouped_gemm({.out = out.view(),
                     .a = a.view(),
                     .w = w.view(),
                     .offsets = nullptr,
                     .counts = counts.view().as<int32_t>()},
                    context);
  HostTensor expected(DType::kBF16, {4, 8, kN});
  for (int64_t g = 0; g < 4; ++g) {
    const auto rows = static_cast<int64_t>(counts.get(g));
    if (rows == 0) continue;
    cpu::gemm({.out = expected.view().rows(g, 1).reshape({8, kN}).rows(0, rows),
               .a = a.view().rows(g, 1).reshape({8, kK}).rows(0, rows),
               .w = w.view().rows(g, 1).reshape({kN, kK}),
               .bias = {}},
              context);
  }
  EXPECT_TRUE(bit_equal(out, expected));
}

TEST(GroupedGemmTest, ReadsTheCountsWhenItRunsAndRefusesThoseThatDoNotFit) {
  StreamOps ops;
  const auto a = HostTensor(DType::kF32, {6, 4}).fill_normal(18);
  const auto w = HostTensor(DType::kF32, {2, 3, 4}).fill_normal(19);
  const TensorView offsets = ops.upload(HostTensor(DType::kI32, {3}).fill_from({0, 0, 0}));
  const TensorView out = ops.upload(HostTensor(DType::kF32, {6, 3}));
  ops.stream().begin_capture();
  grouped_gemm(ops.stream(), {.out = out,
                              .a = ops.upload(a),
                              .w = ops.upload(w),
                              .offsets = offsets.as<int32_t>(),
                              .counts = nullptr});
  const auto graph = ops.stream().end_capture();
  ops.stream().replay(*graph);
  EXPECT_TRUE(bit_equal(ops.download(out), HostTensor(DType::kF32, {6, 3})));

  offsets.as<int32_t>()[2] = 2;
  ops.stream().replay(*graph);
  const HostTensor second = ops.download(out);
  EXPECT_FALSE(std::isnan(second.get(5)));
  EXPECT_TRUE(std::isnan(second.get(6)));

  offsets.as<int32_t>()[2] = 7;
  ops.stream().replay(*graph);
  EXPECT_THAT(
      [&] { ops.wait(); },
      ThrowsMessage<Error>(HasSubstr("grouped_gemm: group 1 owns rows [0, 7), which are not inside a")));
}

TEST(GroupedGemmTest, NeedsOffsetsOrCountsAndNotBoth) {
  StreamOps ops;
  const TensorView a = device::make_view(nullptr, DType::kF32, {6, 4});
  const TensorView w = device::make_view(nullptr, DType::kF32, {2, 3, 4});
  const TensorView out = device::make_view(nullptr, DType::kF32, {6, 3});
  EXPECT_THAT(
      [&] {
        grouped_gemm(ops.stream(), {.out = out, .a = a, .w = w, .offsets = nullptr, .counts = nullptr});
      },
      ThrowsMessage<Error>(HasSubstr("give offsets (contiguous rows) or counts (masked rows)")));
}

}  // namespace
}  // namespace weft::ops
