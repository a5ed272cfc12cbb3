#pragma once

/// Vectors of f32 with one interface for every instruction set, in the namespaces portable, avx2 and avx512:
///
///   kLanes                      lanes of F32: 4, 8, 16
///   F32                         a vector of f32; + - * / work on it
///   zero() set(x)               all lanes alike
///   load(p) load(p, n)          from f32, bf16 or f16; with n, only the first n lanes are read, the others
///   are 0 store(p, v) store(p, v, n)  rounds to nearest even; with n, only the first n lanes are written
///   fma(a, b, c)                a * b + c; rounded once, except in portable
///   min(a, b) max(a, b)         b where either is NaN
///   reduce_add(v) reduce_max(v) over the lanes, always in the same order
///   add_reduced(p, a, b, c, d)  p[0] += reduce_add(a), ..., p[3] += reduce_add(d), in the same order
///   exp(v)                      2 ulp; NaN stays NaN, overflow gives inf
///   sigmoid(v) silu(v)
///
/// A kernel is written once, in a file X_simd.h without include guard, and compiled for each instruction set:
///
///   // rms_norm_simd.h
///   namespace weft::ops::cpu::WEFT_ISA {
///   template <class T>
///   WEFT_TARGET void rms_norm_row(T* out, const T* x, ...) { ... load(x + i) ... }
///   }
///   // rms_norm.cpp
///   #define WEFT_SIMD_FILE "ops/cpu/rms_norm_simd.h"
///   #include "ops/cpu/for_each_isa.h"
///   ... WEFT_CALL_ISA(rms_norm_row<T>, out, x, ...);   // the one for current_isa()
///
/// Every function in such a file needs WEFT_TARGET, small helpers WEFT_TARGET WEFT_ALWAYS_INLINE; lambdas do
/// not inherit the attribute, so they must not touch F32.

#include "ops/cpu/isa.h"
#include "ops/cpu/vec_portable.h"
#if WEFT_X86
#include "ops/cpu/vec_avx2.h"
#include "ops/cpu/vec_avx512.h"
#endif

#define WEFT_SIMD_FILE "ops/cpu/vec_math_simd.h"
#include "ops/cpu/for_each_isa.h"

/// Calls the variant of `function` for current_isa().
#if WEFT_X86
#define WEFT_CALL_ISA(function, ...)                       \
  do {                                                     \
    switch (::weft::ops::cpu::current_isa()) {             \
      case ::weft::ops::cpu::Isa::kAvx512Bf16:             \
      case ::weft::ops::cpu::Isa::kAvx512:                 \
        ::weft::ops::cpu::avx512::function(__VA_ARGS__);   \
        break;                                             \
      case ::weft::ops::cpu::Isa::kAvx2:                   \
        ::weft::ops::cpu::avx2::function(__VA_ARGS__);     \
        break;                                             \
      case ::weft::ops::cpu::Isa::kPortable:               \
        ::weft::ops::cpu::portable::function(__VA_ARGS__); \
        break;                                             \
    }                                                      \
  } while (false)
#else
#define WEFT_CALL_ISA(function, ...) ::weft::ops::cpu::portable::function(__VA_ARGS__)
#endif
