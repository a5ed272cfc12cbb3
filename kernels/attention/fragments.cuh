#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/common/types.cuh"
#include "kernels/gemm/mma.cuh"

/// Operands of mma_16x8x16 from tiles in shared memory, and the exponential of a softmax.
///
/// A tile has rows of kChunks chunks of 16 bytes. Chunk c of row r stands at swizzle(r, c), so that eight
/// rows' chunks of one column meet all banks.
namespace weft::kernels {

template <int kChunks>
__device__ inline int swizzle(int row, int chunk) {
  static_assert(kChunks % 8 == 0);
  return row * kChunks + (chunk ^ (row & 7));
}

/// Four matrices of 8 x 8 16-bit numbers: lane l names row l % 8 of matrix l / 8, and receives columns
/// (2 * (l % 4), + 1) of row l / 4 of each matrix; with kTransposed those of its transpose.
template <bool kTransposed>
__device__ inline void load_matrices(uint32_t (&r)[4], const uint4* row) {
#if WEFT_CUDA_EMULATED
  emulation::load_matrices(r, row, kTransposed);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

/// The transpose of a matrix of 8 x 8 16-bit numbers whose row l / 4 lane l has columns (2 * (l % 4), + 1)
/// of.
__device__ inline uint32_t transpose_matrix(uint32_t pair) {
#if WEFT_CUDA_EMULATED
  return emulation::transpose_matrix(pair);
#else
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
#endif
}

/// Operand a: rows [first_row, + 16) x columns [16 * k, + 16) of a tile.
template <int kChunks>
__device__ inline void load_a(uint32_t (&a)[4], const uint4* tile, int first_row, int k, int lane) {
  load_matrices<false>(a, tile + swizzle<kChunks>(first_row + lane % 16, 2 * k + lane / 16));
}
/// Operands b of two products: b[n] = the transpose of rows [first_row + 8 * n, + 8), columns [16 * k, + 16).
template <int kChunks>
__device__ inline void load_b_of_rows(uint32_t (&b)[2][2], const uint4* tile, int first_row, int k,
                                      int lane) {
  uint32_t r[4];
  const int row = first_row + lane / 16 * 8 + lane % 8;
  load_matrices<false>(r, tile + swizzle<kChunks>(row, 2 * k + lane / 8 % 2));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}
/// Operands b of two products: b[n] = rows [first_row, + 16), columns [16 * k + 8 * n, + 8).
template <int kChunks>
__device__ inline void load_b_of_columns(uint32_t (&b)[2][2], const uint4* tile, int first_row, int k,
                                         int lane) {
  uint32_t r[4];
  load_matrices<true>(r, tile + swizzle<kChunks>(first_row + lane % 16, 2 * k + lane / 16));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

/// Two numbers, rounded, in one register; `low` comes first in memory.
template <class T>
__device__ inline uint32_t pack_pair(float low, float high) {
#if WEFT_CUDA_EMULATED
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
#else
  uint32_t pair;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#endif
}

/// 2^x, to 2 units in the last place; 0 for -inf, 1 for 0.
__device__ inline float exp2_fast(float x) {
#if WEFT_CUDA_EMULATED
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

__host__ __device__ constexpr int min_of(int a, int b) { return a < b ? a : b; }

}  // namespace weft::kernels
