// Experts whose rows are aligned to tiles: DeepGEMM's kernels on a GPU against the CPU, and native ones for
// what those do not serve.
#if WEFT_CUDA
#include <algorithm>
#include <cmath>
#include <random>

#include "base/math.h"
#include "ops/experts.h"
#include "ops/gemm.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

constexpr int32_t kSmallTile = 64;
constexpr int32_t kLargeTile = 128;

struct Layer {
  DType dtype = DType::kBF16;
  int64_t experts = 8;
  int64_t hidden = 64;
  int64_t inter = 16;
};

/// The alignment that this build takes for so many rows an expert.
int32_t alignment_of(const Layer& layer, int64_t mean_rows) {
  return ops::expert_alignment(device::Backend::kCuda, {.copies = layer.experts * mean_rows,
                                                        .num_experts = layer.experts,
                                                        .hidden = layer.hidden,
                                                        .inter = layer.inter,
                                                        .dtype = layer.dtype});
}

using CudaAlignedExpertsTest = CudaOpTest;

class CudaDeepGemmTest : public CudaOpTest {
 protected:
  void SetUp() override {
    CudaOpTest::SetUp();
    if (!IsSkipped() && alignment_of({}, 100) == 1) GTEST_SKIP() << "this build has no DeepGEMM";
  }
};

/// One expert a token, in random order; -1 for some that have none.
HostTensor ids_of(const std::vector<int>& rows_of) {
  std::vector<double> ids(5, -1.0);
  for (size_t e = 0; e < rows_of.size(); ++e) {
    ids.insert(ids.end(), static_cast<size_t>(rows_of[e]), static_cast<double>(e));
  }
  std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
  return HostTensor(DType::kI32, {static_cast<int64_t>(ids.size()), 1}).fill_from(ids);
}

/// The experts of a layer, over tokens. Tokens without an expert are NaN, as is all that no op has written.
class Experts {
 public:
  Experts(const Layer& layer, HostTensor ids, int32_t alignment)
      : layer_(layer),
        alignment_(alignment),
        ids_(std::move(ids)),
        x_(HostTensor(layer.dtype, {ids_.shape(0), layer.hidden}).fill_normal(1)),
        gate_up_(weights({layer.experts, 2 * layer.inter, layer.hidden}, 2)),
        down_(weights({layer.experts, layer.hidden, layer.inter}, 3)) {
    for (int64_t t = 0; t < tokens(); ++t) {
      for (int64_t h = 0; h < layer.hidden && ids_.get(t) < 0; ++h) x_.set({t, h}, std::nan(""));
    }
  }

  [[nodiscard]] int64_t tokens() const { return ids_.shape(0); }

  /// Groups, computes and puts back; num_rows: tokens that exist.
  void enqueue(Side& s, int64_t num_rows) const {
    const auto [dtype, experts, hidden, inter] = layer_;
    const int64_t max_rows = tokens() + experts * (alignment_ - 1);
    const auto fresh = [&](DType type, const HostTensor::Index& shape) {
      return s.in(HostTensor(type, shape));
    };
    const auto* rows = s.array(std::vector<int32_t>{static_cast<int32_t>(num_rows)});
    const TensorView offsets = fresh(DType::kI32, {experts + 1});
    const TensorView source = fresh(DType::kI32, {max_rows});
    const TensorView position = fresh(DType::kI32, {tokens(), 1});
    ops::group_copies(s.stream(), {.ids = s.in(ids_),
                                   .offsets = offsets,
                                   .source = source,
                                   .position = position,
                                   .num_rows = rows,
                                   .total_experts = static_cast<int32_t>(experts),
                                   .alignment = alignment_});
    const TensorView computed = fresh(dtype, {max_rows, hidden});
    ops::expert_ffn(s.stream(), {.out = computed,
                                 .x = s.in(x_),
                                 .gate_up = s.in(gate_up_),
                                 .down = s.in(down_),
                                 .offsets = offsets,
                                 .source = source,
                                 .alignment = alignment_,
                                 .copies = fresh(dtype, {max_rows, hidden}),
                                 .gate_up_out = fresh(dtype, {max_rows, 2 * inter}),
                                 .act = fresh(dtype, {max_rows, inter})});
    ops::moe_unpermute(s.stream(), {.out = s.out(HostTensor(dtype, {tokens(), hidden})),
                                    .x = computed,
                                    .position = position,
                                    .weights = s.in(HostTensor(DType::kF32, {tokens(), 1}).fill(1.0)),
                                    .num_rows = rows});
  }

 private:
  // So that products are of size 1.
  [[nodiscard]] HostTensor weights(const HostTensor::Index& shape, uint64_t seed) const {
    return HostTensor(layer_.dtype, shape).fill_normal(seed, 1.0 / std::sqrt(static_cast<double>(shape[2])));
  }

  Layer layer_;
  int32_t alignment_;
  HostTensor ids_, x_, gate_up_, down_;
};

void expect_expert_twins(const Layer& layer, const std::vector<int>& rows_of, int32_t alignment) {
  const Experts experts(layer, ids_of(rows_of), alignment);
  // Gate, up and act are rounded, to either side; one seldom is much larger than 1.
  const double bound = 4 * unit_roundoff(layer.dtype) + 1e-6;
  for (const int64_t num_rows : {experts.tokens(), experts.tokens() / 3, int64_t{0}}) {
    SCOPED_TRACE(std::to_string(layer.hidden) + " columns, " + std::to_string(num_rows) + " rows");
    expect_twins([&](Side& s) { experts.enqueue(s, num_rows); }, bound, bound);
  }
}

/// rows_of for many experts.
std::vector<int> uneven_rows(int64_t experts, int most) {
  std::vector<int> rows;
  for (int64_t e = 0; e < experts; ++e) rows.push_back(static_cast<int>(e * 37 % (most + 1)));
  return rows;
}

// None, one, a tile, one more than a tile or two, in the first, the last and neighbouring experts.
const std::vector<int> kRowsOfSmallTiles = {40, 0, 64, 1, 65, 130, 17, 3};
const std::vector<int> kRowsOfLargeTiles = {0, 128, 129, 1, 300, 96, 257, 0};

TEST_F(CudaDeepGemmTest, TilesAreChosenByTheRowsOfAnExpert) {
  EXPECT_EQ(alignment_of({}, 24), 1);
  EXPECT_EQ(alignment_of({}, 25), kSmallTile);
  EXPECT_EQ(alignment_of({}, 95), kSmallTile);
  EXPECT_EQ(alignment_of({}, 96), kLargeTile);
  EXPECT_EQ(alignment_of({.experts = 256}, 40), kSmallTile);
  EXPECT_EQ(alignment_of({.experts = 7}, 100), 1) << "no kernel is made for so many experts";
  EXPECT_EQ(alignment_of({.dtype = DType::kF16}, 100), 1);
  EXPECT_EQ(alignment_of({.inter = 20}, 100), 1) << "rows that are not aligned to 16 bytes";
}

// k: less than a step, a step and a bit, more steps than stages. n: less than a tile, one and a bit.
TEST_F(CudaDeepGemmTest, ExpertsInSmallTilesAreAsOnTheCpu) {
  expect_expert_twins({.hidden = 264, .inter = 104}, kRowsOfSmallTiles, kSmallTile);
  expect_expert_twins({.hidden = 40, .inter = 8}, kRowsOfSmallTiles, kSmallTile);
  expect_expert_twins({.experts = 16, .hidden = 712, .inter = 72}, uneven_rows(16, 70), kSmallTile);
}

TEST_F(CudaDeepGemmTest, ExpertsInLargeTilesAreAsOnTheCpu) {
  expect_expert_twins({.hidden = 328, .inter = 136}, kRowsOfLargeTiles, kLargeTile);
  expect_expert_twins({.hidden = 40, .inter = 8}, kRowsOfLargeTiles, kLargeTile);
  expect_expert_twins({.experts = 16, .hidden = 264, .inter = 264}, uneven_rows(16, 200), kLargeTile);
}

TEST_F(CudaDeepGemmTest, AllNumbersOfExpertsAreServed) {
  for (const int64_t experts : {8, 16, 32, 64, 128, 256}) {
    SCOPED_TRACE(std::to_string(experts) + " experts");
    expect_expert_twins({.experts = experts, .hidden = 72, .inter = 8}, uneven_rows(experts, 66), kSmallTile);
    expect_expert_twins({.experts = experts, .hidden = 8, .inter = 72}, uneven_rows(experts, 66), kLargeTile);
  }
}

TEST_F(CudaDeepGemmTest, ARowDependsOnNothingButItself) {
  for (const int32_t alignment : {kSmallTile, kLargeTile}) {
    const Layer layer{.hidden = 264, .inter = 104};
    const HostTensor ids = ids_of(kRowsOfLargeTiles);
    const Experts experts(layer, ids, alignment);
    const auto run = [&](int64_t num_rows) {
      return on_cuda([&](Side& s) { experts.enqueue(s, num_rows); }).at(0);
    };
    const HostTensor all = run(experts.tokens());
    EXPECT_TRUE(bit_equal(run(experts.tokens()), all)) << "the same again";
    // Fewer tokens move the others to other places.
    for (const int64_t num_rows : {int64_t{50}, experts.tokens() - 100}) {
      const HostTensor some = run(num_rows);
      for (int64_t i = 0; i < num_rows * layer.hidden; ++i) {
        ASSERT_EQ(some.bits(i), all.bits(i)) << "alignment " << alignment << ", at " << all.describe_index(i);
      }
    }
  }
}

TEST_F(CudaDeepGemmTest, RowsOfStridedProductsAreAsOnTheCpu) {
  constexpr int64_t kGroups = 8;
  constexpr int64_t kN = 136;
  constexpr int64_t kK = 72;
  for (const int32_t alignment : {kSmallTile, kLargeTile}) {
    std::vector<int32_t> offsets = {0};
    for (const int rows : kRowsOfSmallTiles) offsets.push_back(round_up(offsets.back(), alignment) + rows);
    const int64_t max_rows = offsets.back() + 3;
    const auto a = HostTensor(DType::kBF16, {max_rows, kK}, {kK + 8, 1}).fill_normal(4);
    const auto w = HostTensor(DType::kBF16, {kGroups, kN, kK}).fill_normal(5);
    const HostTensor out(DType::kBF16, {max_rows, kN}, {kN + 16, 1});
    const auto enqueue = [&](Side& s) {
      ops::grouped_gemm(s.stream(), {.out = s.out(out),
                                     .a = s.in(a),
                                     .w = s.in(w),
                                     .offsets = s.array(offsets),
                                     .alignment = alignment});
    };
    const HostTensor expected = on_cpu(enqueue).at(0);
    const HostTensor actual = on_cuda(enqueue).at(0);
    for (size_t g = 0; g < kGroups; ++g) {
      for (int64_t r = round_up(offsets[g], alignment); r < offsets[g + 1]; ++r) {
        for (int64_t n = 0; n < kN; ++n) {
          const double want = expected.at({r, n});
          ASSERT_NEAR(actual.at({r, n}), want, 2 * unit_roundoff(DType::kBF16) * std::abs(want) + 1e-4)
              << "alignment " << alignment << ", row " << r << ", column " << n;
        }
      }
    }
    const std::vector<bool> gap = actual.gap_bytes();
    for (size_t b = 0; b < gap.size(); ++b) {
      ASSERT_TRUE(!gap[b] || actual.bytes()[b] == std::byte{0xff}) << "byte " << b << " between the rows";
    }
  }
}

TEST_F(CudaAlignedExpertsTest, NativeKernelsTakeWhatDeepGemmDoesNotServe) {
  expect_expert_twins({.dtype = DType::kF16, .hidden = 72, .inter = 40}, kRowsOfSmallTiles, kSmallTile);
  expect_expert_twins({.dtype = DType::kF16, .hidden = 40, .inter = 8}, kRowsOfLargeTiles, kLargeTile);
  expect_expert_twins({.experts = 7, .hidden = 40, .inter = 24}, uneven_rows(7, 66), kSmallTile);
  expect_expert_twins({.hidden = 33, .inter = 10}, kRowsOfSmallTiles, kSmallTile);
}

}  // namespace
}  // namespace weft::test
#endif
