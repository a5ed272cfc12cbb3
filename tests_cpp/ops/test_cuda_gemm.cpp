// GEMMs on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

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
                             {129, 140, 72, 8}, {5, 18, 2100, 0}, {0, 8, 8, 0}};

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

TEST_F(CudaGemmTest, ARowHasTheSameBitsWhateverTheNumberOfRows) {
  for (const DType dtype : kDTypes) {
    for (const int64_t k : {100, 1000}) {
      constexpr int64_t kRows = 150;  // takes the tiles for many rows; 40 and 1 take others
      const auto a = HostTensor(dtype, {kRows, k}).fill_normal(4);
      const auto w = HostTensor(dtype, {133, k}).fill_normal(5);
      const HostTensor out(DType::kF32, {kRows, 133});
      const auto run = [&](int64_t first, int64_t count) {
        return on_cuda([&](Side& s) {
          ops::gemm(s.stream(), {.out = s.out(out).rows(first, count),
                                 .a = s.in(a).rows(first, count),
                                 .w = s.in(w),
                                 .bias = {}});
        })[0];
      };
      const HostTensor all = run(0, kRows);
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{149, 1}, {7, 1}, {3, 20}, {60, 60}}) {
        const HostTensor some = run(first, count);
        for (int64_t i = first * 133; i < (first + count) * 133; ++i) {
          ASSERT_EQ(some.bits(i), all.bits(i)) << dtype_name(dtype) << " k=" << k << " rows from " << first
                                               << ", at " << all.describe_index(i);
        }
      }
    }
  }
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
