#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"
#include "ops/cpu/isa.h"

// gcc 12 takes the "undefined" operands in its own AVX-512 header for a mistake of ours (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define WEFT_FN WEFT_TARGET_AVX512 WEFT_ALWAYS_INLINE

/// See vec.h.
namespace weft::ops::cpu::avx512 {

inline constexpr int kLanes = 16;

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};

WEFT_FN F32 set(float x) { return {_mm512_set1_ps(x)}; }
WEFT_FN F32 zero() { return {_mm512_setzero_ps()}; }
WEFT_FN F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
WEFT_FN F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
WEFT_FN F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
WEFT_FN F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
WEFT_FN F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
WEFT_FN F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
WEFT_FN F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }

/// The first n lanes.
WEFT_FN __mmask16 lane_mask(int n) { return static_cast<__mmask16>((1U << n) - 1U); }

WEFT_FN F32 widen_bf16(__m256i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
}
/// The same bits as to_bf16 of base/dtype.h; the machine's own conversion would flush subnormals.
WEFT_FN __m256i narrow_bf16(F32 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
}
WEFT_FN __m256i narrow_f16(F32 x) {
  return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

WEFT_FN F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
WEFT_FN F32 load(const bf16* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
WEFT_FN F32 load(const f16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
WEFT_FN F32 load(const float* p, int n) { return {_mm512_maskz_loadu_ps(lane_mask(n), p)}; }
WEFT_FN F32 load(const bf16* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(lane_mask(n), p)); }
WEFT_FN F32 load(const f16* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lane_mask(n), p))}; }

WEFT_FN void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
WEFT_FN void store(bf16* p, F32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(x)); }
WEFT_FN void store(f16* p, F32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16(x)); }
WEFT_FN void store(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, lane_mask(n), x.v); }
WEFT_FN void store(bf16* p, F32 x, int n) { _mm256_mask_storeu_epi16(p, lane_mask(n), narrow_bf16(x)); }
WEFT_FN void store(f16* p, F32 x, int n) { _mm256_mask_storeu_epi16(p, lane_mask(n), narrow_f16(x)); }

WEFT_FN float reduce_add(F32 x) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  r = _mm_add_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}
/// Folds two vectors at a time, adding the same pairs of lanes as reduce_add.
WEFT_FN void add_reduced(float* p, F32 a, F32 b, F32 c, F32 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xee));
  // Now each quarter belongs to one of a, b, c, d.
  __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0x4e));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0xb1));
  const __m128 four = _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sums));
  _mm_storeu_ps(p, _mm_add_ps(_mm_loadu_ps(p), four));
}
WEFT_FN float reduce_max(F32 x) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}

/// To the nearest integer (even in a tie); |x| < 2^22, else anything.
WEFT_FN I32 round_to_int(F32 x) { return {_mm512_cvtps_epi32(x.v)}; }
WEFT_FN F32 to_f32(I32 x) { return {_mm512_cvtepi32_ps(x.v)}; }
WEFT_FN I32 operator-(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
WEFT_FN I32 half(I32 x) { return {_mm512_srai_epi32(x.v, 1)}; }
/// 2^x for -126 <= x <= 127, else anything.
WEFT_FN F32 pow2(I32 x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(x.v, _mm512_set1_epi32(127)), 23))};
}

}  // namespace weft::ops::cpu::avx512

#undef WEFT_FN

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
