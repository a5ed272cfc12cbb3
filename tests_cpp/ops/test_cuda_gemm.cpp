// GEMMs on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include <array>

#include "ops/elementwise.h"
#include "ops/gemm.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

using ::testing::HasSubstr;
using CudaGemmTest = CudaOpTest;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Shape {
  int64_t m, n, k, gap;
};
// Tails of every tile of every kernel, and k below a step, within a segment and past all of them.
constexpr Shape kShapes[] = {{1, 1, 1, 0},      {1, 40, 64, 0},   {3, 17, 33, 1},  {16, 16, 256, 8},
                             {2, 3, 0, 0},      {33, 65, 40, 0},  {35, 9, 257, 3}, {70, 130, 96, 0},
                             {129, 140, 72, 8}, {5, 18, 2100, 0}, {0, 8, 8, 0},    {2, 33, 520, 8},
                             {8, 50, 2056, 0},  {9, 24, 3000, 0}, {16, 31, 72, 0}, {17, 40, 128, 0},
                             {64, 33, 64, 0},   {65, 24, 64, 8}};

double relative(DType dtype) { return 2 * unit_roundoff(dtype); }
double absolute(int64_t k) { return 2e-6 * static_cast<double>(k + 1); }

TEST_F(CudaGemmTest, MatchesOnOddShapesAndStrides) {
  for (const DType dtype : kDTypes) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(std::string(dtype_name(dtype)) + " m=" + std::to_string(shape.m) +
                   " n=" + std::to_string(shape.n) + " k=" + std::to_string(shape.k));
      const auto a = HostTensor(dtype, {shape.m, shape.k}, {shape.k + shape.gap, 1}).fill_normal(1);
      const auto w = HostTensor(dtype, {shape.n, shape.k}, {shape.k + shape.gap, 1}).fill_normal(2);
      const auto bias = HostTensor(dtype, {shape.n}).fill_normal(3);
      const HostTensor out(DType::kF32, {shape.m, shape.n});
      expect_twins(
          [&](Side& s) {
            ops::gemm(s.stream(), {.out = s.out(out), .a = s.in(a), .w = s.in(w), .bias = {}});
          },
          0.0, absolute(shape.k));
      const HostTensor narrow(dtype, {shape.m, shape.n}, {shape.n + 2, 1});
      expect_twins(
          [&](Side& s) {
            ops::gemm(s.stream(), {.out = s.out(narrow), .a = s.in(a), .w = s.in(w), .bias = s.in(bias)});
          },
          relative(dtype), absolute(shape.k));
    }
  }
}

// Rows of a product that take another kernel may differ in the last bits; these are the classes.
TEST_F(CudaGemmTest, ARowHasTheSameBitsWhateverTheOtherRowsOfItsClass) {
  struct Class {
    int64_t n, k;
    int64_t rows;
    std::vector<std::pair<int64_t, int64_t>> parts;  // first row, rows
  };
  const Class classes[] = {
      {133, 2056, 16, {{15, 1}, {7, 1}, {3, 5}, {2, 9}}},     // few rows, over several blocks of a cluster
      {133, 1000, 16, {{15, 1}, {3, 8}, {0, 12}}},            // few rows
      {133, 1032, 150, {{0, 17}, {30, 66}, {49, 101}}},       // more rows of a small matrix
      {4400, 240, 40, {{0, 36}, {7, 33}}},                    // cuBLASLt's rows, if it is here
      {133, 100, 150, {{149, 1}, {7, 1}, {3, 20}, {60, 60}}}  // rows that are not aligned
  };
  for (const DType dtype : kDTypes) {
    for (const auto& [n, k, rows, parts] : classes) {
      const auto a = HostTensor(dtype, {rows, k}).fill_normal(4);
      const auto w = HostTensor(dtype, {n, k}).fill_normal(5);
      const HostTensor out(DType::kF32, {rows, n});
      const auto run = [&](int64_t first, int64_t count) {
        return on_cuda([&](Side& s) {
          ops::gemm(s.stream(), {.out = s.out(out).rows(first, count),
                                 .a = s.in(a).rows(first, count),
                                 .w = s.in(w),
                                 .bias = {}});
        })[0];
      };
      const HostTensor all = run(0, rows);
      for (const auto& [first, count] : parts) {
        const HostTensor some = run(first, count);
        for (int64_t i = first * n; i < (first + count) * n; ++i) {
          ASSERT_EQ(some.bits(i), all.bits(i)) << dtype_name(dtype) << " k=" << k << " rows from " << first
                                               << ", at " << all.describe_index(i);
        }
      }
    }
  }
}

TEST_F(CudaGemmTest, SiluMulOfAProductMatches) {
  for (const DType dtype : kDTypes) {
    for (const Shape& shape : {Shape{1, 5, 64, 0},
                               {3, 40, 520, 8},
                               {16, 17, 2048, 0},
                               {17, 24, 64, 0},
                               {70, 9, 40, 0},
                               {2, 6, 33, 1},
                               {0, 4, 8, 0}}) {
      SCOPED_TRACE(std::string(dtype_name(dtype)) + " m=" + std::to_string(shape.m) +
                   " inter=" + std::to_string(shape.n) + " k=" + std::to_string(shape.k));
      const auto a = HostTensor(dtype, {shape.m, shape.k}, {shape.k + shape.gap, 1}).fill_normal(14);
      const auto w = HostTensor(dtype, {2 * shape.n, shape.k}, {shape.k + shape.gap, 1}).fill_normal(15);
      const HostTensor gate_up(dtype, {shape.m, 2 * shape.n});
      const HostTensor out(dtype, {shape.m, shape.n}, {shape.n + 3, 1});
      // Gate and up are rounded, and each of them times the other one's size is what that costs.
      const double size = static_cast<double>(shape.k);
      expect_twins(
          [&](Side& s) {
            ops::gemm_silu_mul(s.stream(),
                               {.out = s.out(out), .gate_up = s.in(gate_up), .a = s.in(a), .w = s.in(w)});
          },
          8 * unit_roundoff(dtype), 4 * unit_roundoff(dtype) * size + absolute(shape.k) * size);
    }
  }
}

TEST_F(CudaGemmTest, SiluMulOfAProductHasTheBitsOfBothOps) {
  const auto a = HostTensor(DType::kBF16, {9, 1096}).fill_normal(16);
  const auto w = HostTensor(DType::kBF16, {2 * 21, 1096}).fill_normal(17);
  const HostTensor gate_up(DType::kBF16, {9, 42});
  const HostTensor out(DType::kBF16, {9, 21});
  const HostTensor fused = on_cuda([&](Side& s) {
    ops::gemm_silu_mul(s.stream(), {.out = s.out(out), .gate_up = s.in(gate_up), .a = s.in(a), .w = s.in(w)});
  })[0];
  const HostTensor separate = on_cuda([&](Side& s) {
    const TensorView middle = s.in(gate_up);
    ops::gemm(s.stream(), {.out = middle, .a = s.in(a), .w = s.in(w), .bias = {}});
    ops::silu_mul(s.stream(), {.out = s.out(out), .gate_up = middle});
  })[0];
  EXPECT_TRUE(bit_equal(fused, separate));
}

TEST_F(CudaGemmTest, BatchedMatchesForBothLayoutsOfW) {
  for (const DType dtype : kDTypes) {
    for (const int64_t m : {1, 40}) {
      const auto a = HostTensor(dtype, {m, 3, 24}, {100, 30, 1}).fill_normal(6);
      const HostTensor out(dtype, {m, 3, 17});
      const auto w = HostTensor(dtype, {3, 17, 24}).fill_normal(7);
      expect_twins(
          [&](Side& s) { ops::batched_gemm(s.stream(), {.out = s.out(out), .a = s.in(a), .w = s.in(w)}); },
          relative(dtype), absolute(24));
      const auto transposed = HostTensor(dtype, {3, 17, 24}, {17 * 24, 1, 17}).fill_normal(8);
      expect_twins(
          [&](Side& s) {
            ops::batched_gemm(s.stream(), {.out = s.out(out), .a = s.in(a), .w = s.in(transposed)});
          },
          relative(dtype), absolute(24));
    }
  }
}

TEST_F(CudaGemmTest, BatchedMatchesForWeightsThatAreDenseAlongTheirRows) {
  for (const DType dtype : kDTypes) {
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{1, 72, 128}, {16, 64, 32}, {17, 8, 16}, {70, 136, 160}}) {
      SCOPED_TRACE(std::string(dtype_name(dtype)) + " m=" + std::to_string(m) + " n=" + std::to_string(n) +
                   " k=" + std::to_string(k));
      const auto a = HostTensor(dtype, {m, 2, k}, {2 * k + 6, k + 2, 1}).fill_normal(18);
      const auto w = HostTensor(dtype, {2, n, k}, {k * (n + 8), 1, n + 8}).fill_normal(19);
      const HostTensor out(dtype, {m, 2, n}, {2 * n + 3, n, 1});
      expect_twins(
          [&](Side& s) { ops::batched_gemm(s.stream(), {.out = s.out(out), .a = s.in(a), .w = s.in(w)}); },
          relative(dtype), absolute(k));
    }
  }
}

TEST_F(CudaGemmTest, GroupsMatchAndOtherRowsAreNotTouched) {
  for (const DType dtype : kDTypes) {
    for (const int64_t rows : {12, 300}) {
      const auto w = HostTensor(dtype, {4, 50, 40}).fill_normal(9);
      const auto a = HostTensor(dtype, {rows, 40}).fill_normal(10);
      const HostTensor out(dtype, {rows, 50});
      const auto at = [&](int64_t twelfths) { return static_cast<int32_t>(rows * twelfths / 12); };
      const std::vector<int32_t> offsets = {at(0), at(5), at(5), at(6), at(11)};
      expect_twins(
          [&](Side& s) {
            ops::grouped_gemm(s.stream(),
                              {.out = s.out(out), .a = s.in(a), .w = s.in(w), .offsets = s.array(offsets)});
          },
          relative(dtype), absolute(40));
      const auto masked = HostTensor(dtype, {4, rows, 40}).fill_normal(11);
      const HostTensor masked_out(dtype, {4, rows, 50});
      const std::vector<int32_t> counts = {at(12), 0, 1, at(7)};
      expect_twins(
          [&](Side& s) {
            ops::grouped_gemm(
                s.stream(),
                {.out = s.out(masked_out), .a = s.in(masked), .w = s.in(w), .counts = s.array(counts)});
          },
          relative(dtype), absolute(40));
    }
  }
}

TEST_F(CudaGemmTest, ManyGroupsFindTheirRows) {
  // More groups than lanes, most of them empty, and rows for several tiles in some.
  constexpr int64_t kGroups = 70;
  std::vector<int32_t> offsets = {0};
  for (int32_t g = 0; g < kGroups; ++g)
    offsets.push_back(offsets.back() + (g % 33 == 31 ? 40 : g % 7 == 0 ? 3 : 0));
  const int64_t rows = offsets.back() + 5;
  const auto w = HostTensor(DType::kBF16, {kGroups, 9, 16}).fill_normal(12);
  const auto a = HostTensor(DType::kBF16, {rows, 16}).fill_normal(13);
  const HostTensor out(DType::kBF16, {rows, 9});
  expect_twins(
      [&](Side& s) {
        ops::grouped_gemm(s.stream(),
                          {.out = s.out(out), .a = s.in(a), .w = s.in(w), .offsets = s.array(offsets)});
      },
      relative(DType::kBF16), absolute(16));
}

TEST_F(CudaGemmTest, GroupsThatDoNotFitAreFailures) {
  const auto w = HostTensor(DType::kBF16, {2, 8, 8}).fill_normal(1);
  const auto a = HostTensor(DType::kBF16, {4, 8}).fill_normal(2);
  const HostTensor out(DType::kBF16, {4, 8});
  const std::vector<int32_t> beyond = {0, 2, 5};
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::grouped_gemm(s.stream(),
                                  {.out = s.in(out), .a = s.in(a), .w = s.in(w), .offsets = s.array(beyond)});
              }),
              HasSubstr("grouped_gemm: group 1 owns rows [2, 5), which are not inside a = [4, ..]"));
  const auto masked = HostTensor(DType::kBF16, {2, 4, 8}).fill_normal(3);
  const std::vector<int32_t> counts = {0, 5};
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::grouped_gemm(
                    s.stream(),
                    {.out = s.in(masked), .a = s.in(masked), .w = s.in(w), .counts = s.array(counts)});
              }),
              HasSubstr("grouped_gemm: counts[1]=5"));
}

}  // namespace
}  // namespace weft::test
#endif
