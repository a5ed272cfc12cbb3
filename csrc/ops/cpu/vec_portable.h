#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "ops/cpu/isa.h"

/// See vec.h. Four lanes of the compilers' vector extension: SSE2 or NEON where there is one, else scalars.
namespace weft::ops::cpu::portable {

inline constexpr int kLanes = 4;

typedef float FloatLanes __attribute__((vector_size(16)));
typedef int32_t IntLanes __attribute__((vector_size(16)));

struct F32 {
  FloatLanes v;
};
struct I32 {
  IntLanes v;
};

WEFT_ALWAYS_INLINE F32 set(float x) { return {FloatLanes{x, x, x, x}}; }
WEFT_ALWAYS_INLINE F32 zero() { return set(0.0F); }
WEFT_ALWAYS_INLINE F32 operator+(F32 a, F32 b) { return {a.v + b.v}; }
WEFT_ALWAYS_INLINE F32 operator-(F32 a, F32 b) { return {a.v - b.v}; }
WEFT_ALWAYS_INLINE F32 operator*(F32 a, F32 b) { return {a.v * b.v}; }
WEFT_ALWAYS_INLINE F32 operator/(F32 a, F32 b) { return {a.v / b.v}; }
WEFT_ALWAYS_INLINE F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }

WEFT_ALWAYS_INLINE F32 min(F32 a, F32 b) {
  F32 r = b;
  for (int i = 0; i < kLanes; ++i) r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return r;
}
WEFT_ALWAYS_INLINE F32 max(F32 a, F32 b) {
  F32 r = b;
  for (int i = 0; i < kLanes; ++i) r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return r;
}

WEFT_ALWAYS_INLINE F32 load(const float* p, int n) {
  F32 r = zero();
  for (int i = 0; i < n; ++i) r.v[i] = p[i];
  return r;
}
WEFT_ALWAYS_INLINE F32 load(const bf16* p, int n) {
  F32 r = zero();
  for (int i = 0; i < n; ++i) r.v[i] = to_f32(p[i]);
  return r;
}
WEFT_ALWAYS_INLINE F32 load(const f16* p, int n) {
  F32 r = zero();
  for (int i = 0; i < n; ++i) r.v[i] = to_f32(p[i]);
  return r;
}
WEFT_ALWAYS_INLINE F32 load(const float* p) {
  F32 r;
  std::memcpy(&r, p, sizeof(r));
  return r;
}
WEFT_ALWAYS_INLINE F32 load(const bf16* p) { return load(p, kLanes); }
WEFT_ALWAYS_INLINE F32 load(const f16* p) { return load(p, kLanes); }

WEFT_ALWAYS_INLINE void store(float* p, F32 x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
WEFT_ALWAYS_INLINE void store(bf16* p, F32 x, int n) {
  for (int i = 0; i < n; ++i) p[i] = to_bf16(x.v[i]);
}
WEFT_ALWAYS_INLINE void store(f16* p, F32 x, int n) {
  for (int i = 0; i < n; ++i) p[i] = to_f16(x.v[i]);
}
template <class T>
WEFT_ALWAYS_INLINE void store(T* p, F32 x) {
  store(p, x, kLanes);
}

WEFT_ALWAYS_INLINE float reduce_add(F32 x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }
WEFT_ALWAYS_INLINE void add_reduced(float* p, F32 a, F32 b, F32 c, F32 d) {
  p[0] += reduce_add(a);
  p[1] += reduce_add(b);
  p[2] += reduce_add(c);
  p[3] += reduce_add(d);
}
WEFT_ALWAYS_INLINE float reduce_max(F32 x) {
  float r = x.v[0];
  for (int i = 1; i < kLanes; ++i) r = r > x.v[i] ? r : x.v[i];
  return r;
}

/// To the nearest integer (even in a tie); |x| < 2^22, else anything.
WEFT_ALWAYS_INLINE I32 round_to_int(F32 x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: the integer lands in the low mantissa bits
  const F32 shifted = x + set(kMagic);
  I32 r;
  std::memcpy(&r, &shifted, sizeof(r));
  return {r.v - std::bit_cast<int32_t>(kMagic)};
}
WEFT_ALWAYS_INLINE F32 to_f32(I32 x) {
  F32 r = zero();
  for (int i = 0; i < kLanes; ++i) r.v[i] = static_cast<float>(x.v[i]);
  return r;
}
WEFT_ALWAYS_INLINE I32 operator-(I32 a, I32 b) { return {a.v - b.v}; }
WEFT_ALWAYS_INLINE I32 half(I32 x) { return {x.v >> 1}; }
/// 2^x for -126 <= x <= 127, else anything.
WEFT_ALWAYS_INLINE F32 pow2(I32 x) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) {
    r.v[i] = std::bit_cast<float>((static_cast<uint32_t>(x.v[i]) + 127U) << 23);
  }
  return r;
}

}  // namespace weft::ops::cpu::portable
