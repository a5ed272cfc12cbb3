#include "base/dtype.h"

namespace weft {

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kF8E4M3:
      return "f8_e4m3";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

float to_f32(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000U) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fU;
  uint32_t mantissa = x.bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  uint32_t e = 113;  // a subnormal: shift the leading one into place
  while ((mantissa & 0x400U) == 0) {
    mantissa <<= 1;
    --e;
  }
  return std::bit_cast<float>(sign | (e << 23) | ((mantissa & 0x3ffU) << 13));
}

f16 to_f16(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000U);
  const uint32_t magnitude = u & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return f16{static_cast<uint16_t>(sign | 0x7e00U)};
  if (magnitude >= 0x477ff000U) return f16{static_cast<uint16_t>(sign | 0x7c00U)};  // rounds past 65504
  if (magnitude < 0x33000001U) return f16{sign};                                    // rounds to zero
  const int exponent = static_cast<int>(magnitude >> 23) - 112;
  uint32_t mantissa = (magnitude & 0x7fffffU) | 0x800000U;
  const int shift = exponent <= 0 ? 14 - exponent : 13;
  const uint32_t half = 1U << (shift - 1);
  const uint32_t rest = mantissa & ((1U << shift) - 1U);
  mantissa >>= shift;
  if (rest > half || (rest == half && (mantissa & 1U) != 0)) ++mantissa;
  const uint32_t base = exponent <= 0 ? 0 : static_cast<uint32_t>(exponent - 1) << 10;
  return f16{static_cast<uint16_t>(sign | (base + mantissa))};  // a carry moves into the exponent by itself
}

}  // namespace weft
