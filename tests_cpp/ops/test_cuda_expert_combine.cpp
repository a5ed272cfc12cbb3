// Experts of a few tokens and the sum of their rows, on a GPU, against the two ops they join.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "ops/experts.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

using ::testing::HasSubstr;

struct Case {
  DType dtype;
  int64_t rows, top_k, experts, hidden, inter;
};

/// top_k different experts of each row; a copy in five has none.
HostTensor some_ids(const Case& c) {
  HostTensor ids(DType::kI32, {c.rows, c.top_k});
  std::mt19937 random(3);
  std::vector<int> experts(static_cast<size_t>(c.experts));
  for (int64_t r = 0; r < c.rows; ++r) {
    std::iota(experts.begin(), experts.end(), 0);
    std::shuffle(experts.begin(), experts.end(), random);
    for (int64_t k = 0; k < c.top_k; ++k) {
      ids.set({r, k}, random() % 5 == 0 ? -1 : experts[static_cast<size_t>(k)]);
    }
  }
  return ids;
}

/// Operands, and both ways to enqueue them.
struct Experts {
  explicit Experts(const Case& of) : c(of), num_rows({static_cast<int32_t>(of.rows)}) {}

  void enqueue(Side& s, bool joined) const {
    const ops::GroupArgs groups{.ids = s.in(ids),
                                .offsets = s.in(HostTensor(DType::kI32, {c.experts + 1})),
                                .source = s.in(HostTensor(DType::kI32, {copies})),
                                .position = s.in(HostTensor(DType::kI32, {c.rows, c.top_k})),
                                .total_experts = static_cast<int32_t>(c.experts)};
    ops::group_copies(s.stream(), groups);
    const ops::ExpertFfnArgs experts{.out = s.in(HostTensor(c.dtype, {copies, c.hidden})),
                                     .x = s.in(x),
                                     .gate_up = s.in(gate_up),
                                     .down = s.in(down),
                                     .offsets = groups.offsets,
                                     .source = groups.source,
                                     .copies = s.in(HostTensor(c.dtype, {copies, c.hidden})),
                                     .gate_up_out = s.in(HostTensor(c.dtype, {copies, 2 * c.inter})),
                                     .act = s.in(HostTensor(c.dtype, {copies, c.inter}))};
    ops::UnpermuteArgs combine{.out = s.out(out),
                               .x = {},
                               .position = groups.position,
                               .weights = s.in(weights),
                               .num_rows = s.array(num_rows)};
    if (joined) {
      ops::expert_ffn_and_combine(s.stream(), {experts, combine});
    } else {
      combine.x = experts.out;
      ops::expert_ffn(s.stream(), experts);
      ops::moe_unpermute(s.stream(), combine);
    }
  }

  void expect_bits_of_both_ops() const {
    const HostTensor two = on_cuda([&](Side& s) { enqueue(s, false); }).at(0);
    const HostTensor joined = on_cuda([&](Side& s) { enqueue(s, true); }).at(0);
    EXPECT_TRUE(bit_equal(joined, two));
    const HostTensor cpu = on_cpu([&](Side& s) { enqueue(s, true); }).at(0);
    for (int64_t i = 0; i < num_rows[0] * c.hidden; ++i) {
      ASSERT_NEAR(joined.get(i), cpu.get(i), 8 * unit_roundoff(c.dtype) * (std::abs(cpu.get(i)) + 1.0) + 1e-6)
          << "element " << i;
    }
  }

  Case c;
  std::vector<int32_t> num_rows;
  int64_t copies = c.rows * c.top_k;
  HostTensor ids = some_ids(c);
  HostTensor x = HostTensor(c.dtype, {c.rows, c.hidden}).fill_normal(1);
  HostTensor gate_up = HostTensor(c.dtype, {c.experts, 2 * c.inter, c.hidden})
                           .fill_normal(2, 1.0 / std::sqrt(static_cast<double>(c.hidden)));
  HostTensor down = HostTensor(c.dtype, {c.experts, c.hidden, c.inter}).fill_normal(3, 0.1);
  HostTensor weights = HostTensor(DType::kF32, {c.rows, c.top_k}).fill_normal(4);
  HostTensor out = HostTensor(c.dtype, {c.rows, c.hidden}).fill_normal(5);
};

using CudaExpertCombineTest = CudaOpTest;

TEST_F(CudaExpertCombineTest, HasTheBitsOfBothOpsAtEveryClassOfShapes) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int64_t rows : {1, 2, 7, 8, 9}) {
      for (const int64_t hidden : {16, 56, 72}) {
        SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(hidden));
        Experts({dtype, rows, 4, 11, hidden, 40}).expect_bits_of_both_ops();
      }
    }
  }
  Experts({DType::kBF16, 8, 8, 9, 64, 264}).expect_bits_of_both_ops();  // the last segments of k are short
  // Blocks of more columns, on a GPU of 132 multiprocessors.
  Experts({DType::kBF16, 2, 2, 4, 2128, 16}).expect_bits_of_both_ops();
  Experts({DType::kF16, 5, 4, 11, 2128, 40}).expect_bits_of_both_ops();
  Experts({DType::kBF16, 2, 2, 4, 4240, 8}).expect_bits_of_both_ops();
  Experts({DType::kBF16, 8, 2, 2, 48, 64}).expect_bits_of_both_ops();  // all rows at both experts
  Experts({DType::kF32, 3, 2, 5, 24, 10}).expect_bits_of_both_ops();
}

TEST_F(CudaExpertCombineTest, RowsBeyondTheirNumberAreLeftAlone) {
  Experts experts({DType::kBF16, 5, 2, 6, 64, 32});
  experts.num_rows = {3};
  experts.expect_bits_of_both_ops();
  const HostTensor after = on_cuda([&](Side& s) { experts.enqueue(s, true); }).at(0);
  for (int64_t i = 3 * 64; i < 5 * 64; ++i) EXPECT_EQ(after.get(i), experts.out.get(i));
}

TEST_F(CudaExpertCombineTest, MoreRowsThanThereAreIsAFailure) {
  Experts experts({DType::kBF16, 2, 2, 3, 16, 8});
  experts.num_rows = {5};
  EXPECT_THAT(cuda_failure([&](Side& s) { experts.enqueue(s, true); }), HasSubstr("num_rows=5"));
}

}  // namespace
}  // namespace weft::test
#endif
