#include "ops/cpu/gemm_tiles.h"
#include "ops/cpu/vec.h"

#if WEFT_X86

namespace weft::ops::cpu {
namespace {

using avx512::F32;

WEFT_TARGET_AVX512_BF16 WEFT_ALWAYS_INLINE __m512i load_pairs(const bf16* p) {
  return _mm512_loadu_si512(static_cast<const void*>(p));
}
WEFT_TARGET_AVX512_BF16 WEFT_ALWAYS_INLINE __m512i load_pairs(const bf16* p, __mmask32 mask) {
  return _mm512_maskz_loadu_epi16(mask, p);
}
WEFT_TARGET_AVX512_BF16 WEFT_ALWAYS_INLINE F32 dot_pairs(__m512i a, __m512i w, F32 sum) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(w))};
}

/// dot_tile of gemm_tiles_simd.h with 32 products an instruction.
template <int kRows>
WEFT_TARGET_AVX512_BF16 void dot_tile_pairs(Matrix a_rows, Matrix w_rows, int64_t k, float* sums,
                                            int64_t sums_stride) {
  constexpr int kPairs = 32;
  const bf16* a = reinterpret_cast<const bf16*>(a_rows.data);
  const bf16* w = reinterpret_cast<const bf16*>(w_rows.data);
  F32 sum[kRows][kDotColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kDotColumns; ++j) sum[i][j] = avx512::zero();
  }
  int64_t p = 0;
  for (; p + kPairs <= k; p += kPairs) {
    __m512i a_vec[kRows];
    for (int i = 0; i < kRows; ++i) a_vec[i] = load_pairs(a + i * a_rows.stride + p);
    for (int j = 0; j < kDotColumns; ++j) {
      // The rows of w that come next, one call ahead of their use: a machine's own prefetching loses its way
      // from row to row, and then the arithmetic of a few rows of `a` waits for memory.
      __builtin_prefetch(w + (j + kDotColumns) * w_rows.stride + p, 0, 2);
      const __m512i w_vec = load_pairs(w + j * w_rows.stride + p);
      for (int i = 0; i < kRows; ++i) sum[i][j] = dot_pairs(a_vec[i], w_vec, sum[i][j]);
    }
  }
  if (p < k) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << (k - p)) - 1);
    for (int j = 0; j < kDotColumns; ++j) {
      const __m512i w_vec = load_pairs(w + j * w_rows.stride + p, mask);
      for (int i = 0; i < kRows; ++i) {
        sum[i][j] = dot_pairs(load_pairs(a + i * a_rows.stride + p, mask), w_vec, sum[i][j]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    avx512::add_reduced(sums + i * sums_stride, sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  }
}

}  // namespace

const DotTiles kBf16PairTiles = {
    .max_rows = 6,
    .k_block = 2048,
    .of_rows = {nullptr, &dot_tile_pairs<1>, &dot_tile_pairs<2>, &dot_tile_pairs<3>, &dot_tile_pairs<4>,
                &dot_tile_pairs<5>, &dot_tile_pairs<6>},
};

}  // namespace weft::ops::cpu

#endif  // WEFT_X86
