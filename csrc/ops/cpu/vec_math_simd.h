// Part of ops/cpu/vec.h, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

/// e^x = 2^n * e^r with n whole and |r| <= ln(2) / 2, where the Taylor series to r^7 is good to 2^-27.
WEFT_TARGET WEFT_ALWAYS_INLINE F32 exp(F32 x) {
  // Beyond these e^x is 0 or inf anyway; they keep n in range. NaN passes, as the second operand.
  x = min(set(89.0F), max(set(-104.0F), x));
  const I32 n = round_to_int(x * set(1.44269504F));
  // ln(2) in two parts, the first one short enough that n times it is exact.
  F32 r = fma(to_f32(n), set(-0.693359375F), x);
  r = fma(to_f32(n), set(2.12194440e-4F), r);
  F32 sum = set(1.0F / 5040);
  sum = fma(sum, r, set(1.0F / 720));
  sum = fma(sum, r, set(1.0F / 120));
  sum = fma(sum, r, set(1.0F / 24));
  sum = fma(sum, r, set(1.0F / 6));
  sum = fma(sum, r, set(0.5F));
  sum = fma(sum, r, set(1.0F));
  sum = fma(sum, r, set(1.0F));
  // Two steps, since 2^n alone may overflow or be subnormal.
  const I32 first = half(n);
  return sum * pow2(first) * pow2(n - first);
}

WEFT_TARGET WEFT_ALWAYS_INLINE F32 sigmoid(F32 x) { return set(1.0F) / (set(1.0F) + exp(zero() - x)); }

WEFT_TARGET WEFT_ALWAYS_INLINE F32 silu(F32 x) { return x / (set(1.0F) + exp(zero() - x)); }

}  // namespace weft::ops::cpu::WEFT_ISA
