#pragma once

#include "base/dtype.h"

struct __half {
  unsigned short bits;
};
inline __half __ushort_as_half(unsigned short x) { return {x}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline float __half2float(__half x) { return weft::to_f32(weft::f16{x.bits}); }
inline __half __float2half_rn(float x) { return {weft::to_f16(x).bits}; }
