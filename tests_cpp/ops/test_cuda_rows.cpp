// Ops that work row by row, on a GPU against the CPU.
#if WEFT_CUDA
#include <gmock/gmock.h>

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/fill_padding.h"
#include "ops/rms_norm.h"
#include "ops/rope_write.h"
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
constexpr Width kWidths[] = {{1, 0},    {7, 3},    {8, 8},    {64, 0},   {200, 1},
                             {256, 16}, {2048, 0}, {3001, 2}, {7168, 0}, {16512, 0}};

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
          ops::rms_norm(s.stream(), {.out = s.out(out),
                                     .x = s.in(x),
                                     .weight = s.in(weight),
                                     .residual = s.out(residual),
                                     .eps = 1e-5F});
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

struct RopeCase {
  int64_t dim, gap;
  bool interleaved;
};
// Heads that lanes share in packs, of every number of lanes; and such as go element by element.
constexpr RopeCase kRopeCases[] = {{2, 0, false},   {32, 0, false}, {32, 0, true},   {64, 0, true},
                                   {64, 8, false},  {96, 0, false}, {128, 0, false}, {128, 0, true},
                                   {128, 3, false}, {130, 0, true}, {256, 0, false}};

TEST_F(CudaRowsTest, HeadsAreNormedRotatedAndWritten) {
  const auto positions = HostTensor(DType::kI32, {5}).fill_from({0, 7, -1, 3, 1});
  const auto slots = HostTensor(DType::kI32, {5}).fill_from({8, 0, 3, -1, 2});
  for (const DType dtype : kDTypes) {
    for (const RopeCase& c : kRopeCases) {
      for (const bool with_norm : {false, true}) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + " dim=" + std::to_string(c.dim) +
                     " gap=" + std::to_string(c.gap) + (c.interleaved ? " interleaved" : "") +
                     (with_norm ? " norm" : ""));
        const int64_t stride = 9 * c.dim + c.gap;
        const auto q = HostTensor(dtype, {5, 5, c.dim}, {stride, c.dim, 1}).fill_normal(11);
        const auto k = HostTensor(dtype, {5, 2, c.dim}, {stride, c.dim, 1}).fill_normal(12);
        const auto v = HostTensor(dtype, {5, 2, c.dim}).fill_normal(13);
        const auto weight = HostTensor(dtype, {c.dim}).fill_normal(14);
        const auto table = HostTensor(DType::kF32, {8, c.dim}).fill_normal(15);
        const HostTensor cache(dtype, {9, 2, c.dim});
        // A norm's rounding goes either way, and a rotation mixes two of its results.
        expect_twins(
            [&](Side& s) {
              const TensorView norm = with_norm ? s.in(weight) : TensorView{};
              ops::qk_norm_rope_write(s.stream(), {.q = s.out(q),
                                                   .k = s.in(k),
                                                   .v = s.in(v),
                                                   .q_norm = norm,
                                                   .k_norm = norm,
                                                   .k_cache = s.out(cache),
                                                   .v_cache = s.out(cache),
                                                   .positions = s.in(positions),
                                                   .slots = s.in(slots),
                                                   .cos_sin = s.in(table),
                                                   .eps = 1e-5F,
                                                   .interleaved = c.interleaved});
            },
            relative(dtype), with_norm ? 40 * unit_roundoff(dtype) : 1e-7);
      }
    }
  }
}

TEST_F(CudaRowsTest, LatentsAreNormedAndTheSharedKeyIsRotated) {
  const auto positions = HostTensor(DType::kI32, {5}).fill_from({0, 7, -1, 3, 1});
  const auto slots = HostTensor(DType::kI32, {5}).fill_from({8, 0, 3, -1, 2});
  for (const DType dtype : kDTypes) {
    for (const RopeCase& c : kRopeCases) {
      for (const int64_t rank : {5, 512, 1536}) {
        SCOPED_TRACE(std::string(dtype_name(dtype)) + " dim=" + std::to_string(c.dim) +
                     " rank=" + std::to_string(rank) + (c.interleaved ? " interleaved" : ""));
        // The rope columns behind the others of each head.
        const auto q =
            HostTensor(dtype, {5, 40, c.dim}, {40 * (c.dim + c.gap), c.dim + c.gap, 1}).fill_normal(11);
        const auto latents = HostTensor(dtype, {5, rank + c.dim}, {rank + c.dim + c.gap, 1}).fill_normal(12);
        const auto weight = HostTensor(dtype, {rank}).fill_normal(14);
        const auto table = HostTensor(DType::kF32, {8, c.dim}).fill_normal(15);
        const HostTensor cache(dtype, {9, rank + c.dim});
        expect_twins(
            [&](Side& s) {
              ops::mla_norm_rope_write(s.stream(), {.q_rope = s.out(q),
                                                    .latents = s.in(latents),
                                                    .kv_norm = s.in(weight),
                                                    .cache = s.out(cache),
                                                    .positions = s.in(positions),
                                                    .slots = s.in(slots),
                                                    .cos_sin = s.in(table),
                                                    .eps = 1e-5F,
                                                    .interleaved = c.interleaved});
            },
            relative(dtype), 1e-6);
      }
    }
  }
}

TEST_F(CudaRowsTest, PositionsAndSlotsOutsideAreFailures) {
  const auto x = HostTensor(DType::kF32, {2, 1, 2}).fill_normal(1);
  const auto table = HostTensor(DType::kF32, {8, 2}).fill_normal(2);
  const auto index = [](double a, double b) { return HostTensor(DType::kI32, {2}).fill_from({a, b}); };
  const auto failure = [&](const HostTensor& positions, const HostTensor& slots) {
    return cuda_failure([&](Side& s) {
      ops::qk_norm_rope_write(s.stream(), {.q = s.in(x),
                                           .k = s.in(x),
                                           .v = s.in(x),
                                           .q_norm = {},
                                           .k_norm = {},
                                           .k_cache = s.in(x),
                                           .v_cache = s.in(x),
                                           .positions = s.in(positions),
                                           .slots = s.in(slots),
                                           .cos_sin = s.in(table)});
    });
  };
  EXPECT_EQ(failure(index(7, -1), index(1, -1)), "");
  EXPECT_THAT(
      failure(index(0, 8), index(1, 0)),
      HasSubstr("cuda:test compute op 'qk_norm_rope_write': qk_norm_rope_write: positions[1]=8 is outside "
                "cos_sin = [8, ..]"));
  EXPECT_THAT(failure(index(0, 1), index(1, 2)),
              HasSubstr("qk_norm_rope_write: slots[1]=2 is outside the cache = [2, ..]"));
  const auto latents = HostTensor(DType::kF32, {2, 5}).fill_normal(3);
  const auto weight = HostTensor(DType::kF32, {3}).fill_normal(4);
  const auto mla_failure = [&](const HostTensor& positions, const HostTensor& slots) {
    return cuda_failure([&](Side& s) {
      ops::mla_norm_rope_write(s.stream(), {.q_rope = s.in(x),
                                            .latents = s.in(latents),
                                            .kv_norm = s.in(weight),
                                            .cache = s.in(latents),
                                            .positions = s.in(positions),
                                            .slots = s.in(slots),
                                            .cos_sin = s.in(table)});
    });
  };
  EXPECT_EQ(mla_failure(index(7, -1), index(1, -1)), "");
  EXPECT_THAT(mla_failure(index(-2, 0), index(1, 0)),
              HasSubstr("cuda:test compute op 'mla_norm_rope_write': mla_norm_rope_write: positions[0]=-2 is "
                        "outside cos_sin = [8, ..]"));
  EXPECT_THAT(mla_failure(index(0, 1), index(1, 2)),
              HasSubstr("mla_norm_rope_write: slots[1]=2 is outside the cache = [2, ..]"));
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
  });
}

TEST_F(CudaRowsTest, IndicesOutsideAreFailures) {
  const auto x = HostTensor(DType::kBF16, {4, 8}).fill_normal(1);
  const auto index = HostTensor(DType::kI32, {4}).fill_from({0, 4, 1, 2});
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::gather_rows(s.stream(), {.out = s.in(x), .x = s.in(x), .indices = s.in(index)});
              }),
              HasSubstr("gather_rows: indices[1]=4"));
  const std::vector<int32_t> counts = {5};
  const auto gate_up = HostTensor(DType::kBF16, {4, 16}).fill_normal(2);
  EXPECT_THAT(cuda_failure([&](Side& s) {
                ops::silu_mul(s.stream(),
                              {.out = s.in(x), .gate_up = s.in(gate_up), .num_rows = s.array(counts)});
              }),
              HasSubstr("silu_mul: num_rows[0]=5"));
}

TEST_F(CudaRowsTest, TokensOfTheStepBeforeAreEmbedded) {
  const auto table = HostTensor(DType::kBF16, {16, 24}).fill_normal(1);
  const auto ids = HostTensor(DType::kI32, {5}).fill_from({3, -1, -3, 0, -2});
  const auto last = HostTensor(DType::kI32, {3}).fill_from({10, -1, 12});
  const HostTensor out(DType::kBF16, {5, 24});
  const auto embed = [&](Side& s, const HostTensor& of) {
    ops::embedding(s.stream(), {.out = s.out(out),
                                .ids = s.in(of),
                                .table = s.in(table),
                                .vocab_begin = 2,
                                .last_tokens = s.in(last)});
  };
  expect_same_bits([&](Side& s) { embed(s, ids); });
  const auto far = HostTensor(DType::kI32, {5}).fill(-4);
  EXPECT_THAT(cuda_failure([&](Side& s) { embed(s, far); }), HasSubstr("names slot 3 of 3"));
}

TEST_F(CudaRowsTest, PaddingIsFilled) {
  for (const int32_t real : {0, 4, 5}) {
    const std::vector<int32_t> num_rows = {real};
    auto padded = HostTensor(DType::kBF16, {5, 33}, {40, 1}).fill_normal(3);
    expect_same_bits([&](Side& s) {
      ops::fill_padding(s.stream(), {.x = s.out(padded), .num_rows = s.array(num_rows), .value = 0x7f});
    });
  }
}

}  // namespace
}  // namespace weft::test
#endif
