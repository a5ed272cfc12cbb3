#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"
#include "ops/cpu/isa.h"

#define WEFT_FN WEFT_TARGET_AVX2 WEFT_ALWAYS_INLINE

/// See vec.h.
namespace weft::ops::cpu::avx2 {

inline constexpr int kLanes = 8;

struct F32 {
  __m256 v;
};
struct I32 {
  __m256i v;
};

WEFT_FN F32 set(float x) { return {_mm256_set1_ps(x)}; }
WEFT_FN F32 zero() { return {_mm256_setzero_ps()}; }
WEFT_FN F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
WEFT_FN F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
WEFT_FN F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
WEFT_FN F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
WEFT_FN F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
WEFT_FN F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
WEFT_FN F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }

/// All bits set in the first n lanes.
WEFT_FN __m256i lane_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
WEFT_FN __m128i load_16bit(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
/// The first n of eight 16-bit numbers; AVX2 has no masked load of them.
WEFT_FN __m128i load_16bit(const void* p, int n) {
  alignas(16) uint16_t lanes[8] = {};
  for (int i = 0; i < n; ++i) lanes[i] = static_cast<const uint16_t*>(p)[i];
  return _mm_load_si128(reinterpret_cast<const __m128i*>(lanes));
}
WEFT_FN void store_16bit(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
WEFT_FN void store_16bit(void* p, __m128i x, int n) {
  alignas(16) uint16_t lanes[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), x);
  for (int i = 0; i < n; ++i) static_cast<uint16_t*>(p)[i] = lanes[i];
}

WEFT_FN F32 widen_bf16(__m128i x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))};
}
/// The same bits as to_bf16 of base/dtype.h.
WEFT_FN __m128i narrow_bf16(F32 x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q);
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan)), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
WEFT_FN __m128i narrow_f16(F32 x) {
  return _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

WEFT_FN F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
WEFT_FN F32 load(const bf16* p) { return widen_bf16(load_16bit(p)); }
WEFT_FN F32 load(const f16* p) { return {_mm256_cvtph_ps(load_16bit(p))}; }
WEFT_FN F32 load(const float* p, int n) { return {_mm256_maskload_ps(p, lane_mask(n))}; }
WEFT_FN F32 load(const bf16* p, int n) { return widen_bf16(load_16bit(p, n)); }
WEFT_FN F32 load(const f16* p, int n) { return {_mm256_cvtph_ps(load_16bit(p, n))}; }

WEFT_FN void store(float* p, F32 x) { _mm256_storeu_ps(p, x.v); }
WEFT_FN void store(bf16* p, F32 x) { store_16bit(p, narrow_bf16(x)); }
WEFT_FN void store(f16* p, F32 x) { store_16bit(p, narrow_f16(x)); }
WEFT_FN void store(float* p, F32 x, int n) { _mm256_maskstore_ps(p, lane_mask(n), x.v); }
WEFT_FN void store(bf16* p, F32 x, int n) { store_16bit(p, narrow_bf16(x), n); }
WEFT_FN void store(f16* p, F32 x, int n) { store_16bit(p, narrow_f16(x), n); }

WEFT_FN float reduce_add(F32 x) {
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  r = _mm_add_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}
/// Folds two vectors at a time, adding the same pairs of lanes as reduce_add.
WEFT_FN void add_reduced(float* p, F32 a, F32 b, F32 c, F32 d) {
  const __m256 ac =
      _mm256_add_ps(_mm256_permute2f128_ps(a.v, c.v, 0x20), _mm256_permute2f128_ps(a.v, c.v, 0x31));
  const __m256 bd =
      _mm256_add_ps(_mm256_permute2f128_ps(b.v, d.v, 0x20), _mm256_permute2f128_ps(b.v, d.v, 0x31));
  const __m256 abcd = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
  // Lanes: a a b b | c c d d.
  const __m256 sums = _mm256_add_ps(abcd, _mm256_permute_ps(abcd, 0xb1));
  const __m128 four = _mm_shuffle_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1), 0x88);
  _mm_storeu_ps(p, _mm_add_ps(_mm_loadu_ps(p), four));
}
WEFT_FN float reduce_max(F32 x) {
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}

/// To the nearest integer (even in a tie); |x| < 2^22, else anything.
WEFT_FN I32 round_to_int(F32 x) { return {_mm256_cvtps_epi32(x.v)}; }
WEFT_FN F32 to_f32(I32 x) { return {_mm256_cvtepi32_ps(x.v)}; }
WEFT_FN I32 operator-(I32 a, I32 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
WEFT_FN I32 half(I32 x) { return {_mm256_srai_epi32(x.v, 1)}; }
/// 2^x for -126 <= x <= 127, else anything.
WEFT_FN F32 pow2(I32 x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(x.v, _mm256_set1_epi32(127)), 23))};
}

}  // namespace weft::ops::cpu::avx2

#undef WEFT_FN
