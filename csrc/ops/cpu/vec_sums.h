#pragma once

#include "ops/cpu/vec.h"

/// store_sums(out, a, b, c, d): out[0..3] = the sums over the lanes of a, b, c and d, each added in the same
/// order. Four at a time cost little more than one.
namespace weft::ops::cpu {

namespace portable {
WEFT_ALWAYS_INLINE void store_sums(float* out, F32 a, F32 b, F32 c, F32 d) {
  out[0] = reduce_add(a);
  out[1] = reduce_add(b);
  out[2] = reduce_add(c);
  out[3] = reduce_add(d);
}
}  // namespace portable

#if WEFT_X86

namespace avx2 {
WEFT_TARGET_AVX2 WEFT_ALWAYS_INLINE void store_sums(float* out, F32 a, F32 b, F32 c, F32 d) {
  const __m256 ab = _mm256_hadd_ps(a.v, b.v);  // in each half: a01 a23 b01 b23
  const __m256 cd = _mm256_hadd_ps(c.v, d.v);
  const __m256 abcd = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}
}  // namespace avx2

// gcc 12 takes the "undefined" operands in its own AVX-512 header for a mistake of ours (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
namespace avx512 {
WEFT_TARGET_AVX512 WEFT_ALWAYS_INLINE void store_sums(float* out, F32 a, F32 b, F32 c, F32 d) {
  // Quarters of 128 bits: the upper two fall on the lower two, then those of two vectors share one.
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xee));
  const __m512 abcd = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 pairs = _mm512_add_ps(abcd, _mm512_permute_ps(abcd, 0x4e));
  const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));  // in every lane of its quarter
  const __m512i first_of_quarters = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarters, sums)));
}
}  // namespace avx512
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif

}  // namespace weft::ops::cpu
