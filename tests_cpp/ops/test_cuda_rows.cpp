// Ops that work row by row, on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/kv_write.h"
#include "ops/localize.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/token_feed.h"
#include "support/twin_ops.h"

namespace weft::test {
namespace {

using ::testing::HasSubstr;
using CudaRowsTest = CudaOpTest;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

// Widths with and without whole packs of 16 bytes, and strides that keep or break their alignment.
struct Width {
  int64_t columns;
  int64_t gap;
};
constexpr Width kWidths[] = {{1, 0}, {7, 3}, {8, 8}, {64, 0}, {200, 1}, {256, 16}, {2048, 0}, {3001, 2}};

double relative(DType dtype) { return 2 * unit_roundoff(dtype) + 1e-6; }

HostTensor rows_of(DType dtype, int64_t rows, const Width& w, uint64_t seed) {
  HostTensor x(dtype, {rows, w.columns}, {w.columns + w.gap, 1});
  return seed == 0 ? x : x.fill_normal(seed);
}

template <class Body>
void for_each_case(const Body& body) {
  for (const DType dtype : kDTypes) {
    for (const Width& w : kWidths) {
      for (const int64_t rows : {0, 1, 5}) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + " rows=" + std::to_string(rows) +
                     " columns=" + std::to_string(w.columns) + " gap=" + std::to_string(w.gap));
        body(dtype, w, rows);
      }
    }
  }
}

TEST_F(CudaRowsTest, AddAndCastMatch) {
  for_each_case([](DType dtype, const Width& w, int64_t rows) {
    const auto a = rows_of(dtype, rows, w, 1);
    const auto b = rows_of(dtype, rows, {w.columns, 0}, 2);
    const auto out = rows_of(dtype, rows, w, 0);
    expect_same_bits([&](Side& s) { ops::add(s.stream(), {.out = s.out(out), .a = s.in(a), .b = s.in(b)}); });
    for (const DType to : kDTypes) {
      const auto cast_out = rows_of(to, rows, w, 0);
      expect_same_bits([&](Side& s) { ops::cast(s.stream(), {.out = s.out(cast_out), .x = s.in(a)}); });
    }
  });
}

TEST_F(CudaRowsTest, SiluMulMatchesAndLeavesRowsThatDoNotExist) {
  for_each_case([](DType dtype, const Width& w, int64_t rows) {
    const HostTensor gate_up = rows_of(dtype, rows, {2 * w.columns, w.gap}, 3);
    const auto out = rows_of(dtype, rows, w, 0);
    expect_twins([&](Side& s) { ops::silu_mul(s.stream(), {.out = s.out(out), .gate_up = s.in(gate_up)}); },
                 relative(dtype), 1e-6);
    HostTensor grouped(dtype, {3, rows, 2 * w.columns});
    grouped.fill_normal(4);
    const HostTensor grouped_out(dtype, {3, rows, w.columns});
    const std::vector<int32_t> counts = {0, static_cast<int32_t>(rows), static_cast<int32_t>(rows / 2)};
    expect_twins(
        [&](Side& s) {
          ops::silu_mul(s.stream(),
                        {.out = s.out(grouped_out), .gate_up = s.in(grouped), .num_rows = s.array(counts)});
        },
        relative(dtype), 1e-6);
  });
}

TEST_F(CudaRowsTest, NormsMatch) {
  for_each_case([](DType dtype, const Width& w, int64_t rows) {
    const auto x = rows_of(dtype, rows, w, 5);
    const auto weight = HostTensor(dtype, {w.columns}).fill_normal(6);
    const auto residual = rows_of(dtype, rows, w, 7);
    const auto out = rows_of(dtype, rows, w, 0);
    expect_twins(
        [&](Side& s) {
          ops::rms_norm(s.stream(), {.out = s.out(out), .x = s.in(x), .weight = s.in(weight), .eps = 1e-5F});
        },
        relative(dtype), 1e-6);
    expect_twins(
        [&](Side& s) {
          ops::add_rms_norm(s.stream(), {.out = s.out(out),
                                         .residual = s.out(residual),
                                         .x = s.in(x),
                                         .weight = s.in(weight),
                                         .eps = 1e-5F});
        },
        relative(dtype), 1e-6);
    // Heads inside a wider row, in place.
    auto heads = HostTensor(dtype, {rows, 2, w.columns}, {5 * w.columns + w.gap, 2 * w.columns, 1});
    heads.fill_normal(8);
    expect_twins(
        [&](Side& s) {
          const TensorView view = s.out(heads);
          ops::rms_norm(s.stream(), {.out = view, .x = view, .weight = s.in(weight), .eps = 1e-5F});
        },
        relative(dtype), 1e-6);
  });
}

TEST_F(CudaRowsTest, ANormOfARowDependsOnNothingButItself) {
  const auto x = HostTensor(DType::kBF16, {37, 2560}).fill_normal(9);
  const auto weight = HostTensor(DType::kBF16, {2560}).fill_normal(10);
  const HostTensor out(DType::kBF16, {37, 2560});
  const auto run = [&](int64_t first, int64_t count) {
    return on_cuda([&](Side& s) {
      ops::rms_norm(s.stream(), {.out = s.out(out).rows(first, count),
                                 .x = s.in(x).rows(first, count),
                                 .weight = s.in(weight),
                                 .eps = 1e-6F});
    })[0];
  };
  const HostTensor all = run(0, 37);
  const HostTensor one = run(20, 1);
  for (int64_t c = 0; c < 2560; ++c) EXPECT_EQ(one.bits(20 * 2560 + c), all.bits(20 * 2560 + c)) << c;
}

TEST_F(CudaRowsTest, RopeMatchesInBothOrdersOfPairs) {
  for (const DType dtype : kDTypes) {
    for (const bool interleaved : {false, true}) {
      for (const int64_t dim : {2, 64, 130}) {
        auto q = HostTensor(dtype, {5, 3, dim}, {4 * dim + 2, dim, 1}).fill_normal(11);
        auto k = HostTensor(dtype, {5, 1, dim}).fill_normal(12);
        const auto positions = HostTensor(DType::kI32, {5}).fill_from({0, 7, -1, 3, 1});
        const auto table = HostTensor(DType::kF32, {8, dim}).fill_normal(13);
        expect_twins(
            [&](Side& s) {
              ops::rope(s.stream(), {.q = s.out(q),
                                     .k = s.out(k),
                                     .positions = s.in(positions),
                                     .cos_sin = s.in(table),
                                     .interleaved = interleaved});
            },
            unit_roundoff(dtype), 1e-7);
      }
    }
  }
  const auto q = HostTensor(DType::kF32, {1, 1, 2}).fill_normal(1);
  const auto positions = HostTensor(DType::kI32, {1}).fill(8);
  const auto table = HostTensor(DType::kF32, {8, 2}).fill_normal(2);
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::rope(s.stream(),
                          {.q = s.in(q), .k = s.in(q), .positions = s.in(positions), .cos_sin = s.in(table)});
              }),
              HasSubstr("cuda:test compute op 'rope': rope: positions[0]=8 is outside cos_sin = [8, ..]"));
}

TEST_F(CudaRowsTest, RowsAreMovedByIndex) {
  for_each_case([](DType dtype, const Width& w, int64_t rows) {
    const auto table = rows_of(dtype, 9, w, 14);
    const auto out = rows_of(dtype, rows, w, 0);
    const auto ids = HostTensor(DType::kI32, {rows}).fill_integers(15, -1, 14);
    expect_same_bits([&](Side& s) {
      ops::embedding(s.stream(),
                     {.out = s.out(out), .ids = s.in(ids), .table = s.in(table), .vocab_begin = 3});
    });
    const auto indices = HostTensor(DType::kI32, {rows}).fill_integers(16, -1, 8);
    expect_same_bits([&](Side& s) {
      ops::gather_rows(s.stream(), {.out = s.out(out), .x = s.in(table), .indices = s.in(indices)});
    });
    auto cache = rows_of(dtype, 9, {w.columns + 4, w.gap}, 17);
    auto slots = HostTensor(DType::kI32, {rows});
    for (int64_t r = 0; r < rows; ++r) slots.set(r, r == 2 ? -1 : static_cast<double>(8 - r));
    const auto src = rows_of(dtype, rows, w, 18);
    for (const int64_t column : {0, 3}) {
      expect_same_bits([&](Side& s) {
        ops::kv_write(s.stream(),
                      {.cache = s.out(cache), .src = s.in(src), .slots = s.in(slots), .column = column});
      });
    }
  });
}

TEST_F(CudaRowsTest, IndicesOutsideAreFailures) {
  const auto x = HostTensor(DType::kBF16, {4, 8}).fill_normal(1);
  const auto index = HostTensor(DType::kI32, {4}).fill_from({0, 4, 1, 2});
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::gather_rows(s.stream(), {.out = s.in(x), .x = s.in(x), .indices = s.in(index)});
              }),
              HasSubstr("gather_rows: indices[1]=4"));
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::kv_write(s.stream(), {.cache = s.in(x), .src = s.in(x), .slots = s.in(index)});
              }),
              HasSubstr("kv_write: slots[1]=4"));
  const std::vector<int32_t> counts = {5};
  const auto gate_up = HostTensor(DType::kBF16, {4, 16}).fill_normal(2);
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::silu_mul(s.stream(),
                              {.out = s.in(x), .gate_up = s.in(gate_up), .num_rows = s.array(counts)});
              }),
              HasSubstr("silu_mul: num_rows[0]=5"));
}

TEST_F(CudaRowsTest, TokensAreFedAndKept) {
  const auto ids = HostTensor(DType::kI32, {5}).fill_from({3, -1, -3, 0, 77});
  const auto last = HostTensor(DType::kI32, {3}).fill_from({10, 11, 12});
  const HostTensor out(DType::kI32, {5});
  expect_same_bits([&](Side& s) {
    ops::resolve_token_ids(s.stream(), {.out = s.out(out), .ids = s.in(ids), .last_tokens = s.in(last)});
  });
  const auto far = HostTensor(DType::kI32, {5}).fill(-4);
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::resolve_token_ids(s.stream(),
                                       {.out = s.in(out), .ids = s.in(far), .last_tokens = s.in(last)});
              }),
              HasSubstr("names slot 3 of 3"));
  const auto tokens = HostTensor(DType::kI32, {5}).fill_from({20, 21, 22, 23, 24});
  const auto slots = HostTensor(DType::kI32, {5}).fill_from({2, -1, 0, 1, 1});
  const auto wanted = HostTensor(DType::kI32, {5}).fill_from({-1, -2, 6, -1, 9});
  const std::vector<int32_t> num_rows = {4};
  expect_same_bits([&](Side& s) {
    ops::commit_tokens(s.stream(), {.last_tokens = s.out(last),
                                    .targets = s.out(out),
                                    .tokens = s.in(tokens),
                                    .slots = s.in(slots),
                                    .wanted = s.in(wanted),
                                    .num_rows = s.array(num_rows)});
  });
  auto padded = HostTensor(DType::kBF16, {5, 33}, {40, 1}).fill_normal(3);
  expect_same_bits([&](Side& s) {
    ops::fill_padding(s.stream(), {.x = s.out(padded), .num_rows = s.array(num_rows), .value = 0x7f});
  });
  const auto experts = HostTensor(DType::kI32, {70, 5}).fill_integers(4, -1, 31);
  const HostTensor local(DType::kI32, {70, 5});
  expect_same_bits([&](Side& s) {
    ops::localize_experts(
        s.stream(), {.out = s.out(local), .ids = s.in(experts), .first_expert = 8, .num_local_experts = 16});
  });
}

}  // namespace
}  // namespace weft::test
#endif
