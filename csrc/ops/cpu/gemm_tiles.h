#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/cpu/isa.h"

/// The inner loops of the matrix products. Each adds to f32 sums, and every sum is made in an order that
/// depends on k and the instruction set alone: not on which tile it lies in, nor on the tile's number of
/// rows.
namespace weft::ops::cpu {

inline constexpr int kMaxTileRows = 6;
inline constexpr int kDotColumns = 4;

/// A block of rows in memory; the stride is in elements.
struct Matrix {
  const std::byte* data = nullptr;
  int64_t stride = 0;
};

/// sums[i * sums_stride + j] += sum over p < k of a[i, p] * w[j, p], for kDotColumns rows of w. Both are
/// dense in k: this reads weights as checkpoints store them.
using DotTile = void (*)(Matrix a, Matrix w, int64_t k, float* sums, int64_t sums_stride);
struct DotTiles {
  int max_rows;
  int64_t k_block;  // what of k one call should take, so that both operands stay in the nearest cache
  std::array<DotTile, kMaxTileRows + 1> of_rows;  // [1, max_rows]
};

/// sums[i * sums_stride + j] += sum over p < k of a[i, p] * w[p, j], for any number of columns j: w is dense
/// in n. a is f32.
using AxpyTile = void (*)(Matrix a, Matrix w, int64_t k, int64_t columns, float* sums, int64_t sums_stride);
struct AxpyTiles {
  int max_rows;
  std::array<AxpyTile, kMaxTileRows + 1> of_rows;  // [1, max_rows]
};

/// For f32, bf16 and f16 and current_isa().
const DotTiles& dot_tiles(DType dtype);
const AxpyTiles& axpy_tiles(DType dtype);

/// out[j] = sums[j] + bias[j], rounded once. `out` is f32 or `dtype`, bias of `dtype` or null.
void finish_row(std::byte* out, DType out_dtype, const float* sums, const std::byte* bias, DType dtype,
                int64_t columns);

#if WEFT_X86
/// Products of bf16 pairs in one instruction; only where the machine has Isa::kAvx512Bf16.
extern const DotTiles kBf16PairTiles;
#endif

}  // namespace weft::ops::cpu
