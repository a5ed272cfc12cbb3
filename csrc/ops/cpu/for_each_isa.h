// Includes WEFT_SIMD_FILE once for each instruction set that this compiler can make code for, with WEFT_ISA
// (a namespace of ops/cpu/vec.h) and WEFT_TARGET (the attribute of its functions) set. No include guard.
#include "ops/cpu/isa.h"

#define WEFT_ISA portable
#define WEFT_TARGET
#include WEFT_SIMD_FILE
#undef WEFT_ISA
#undef WEFT_TARGET

#if WEFT_X86
#define WEFT_ISA avx2
#define WEFT_TARGET WEFT_TARGET_AVX2
#include WEFT_SIMD_FILE
#undef WEFT_ISA
#undef WEFT_TARGET

#define WEFT_ISA avx512
#define WEFT_TARGET WEFT_TARGET_AVX512
#include WEFT_SIMD_FILE
#undef WEFT_ISA
#undef WEFT_TARGET
#endif

#undef WEFT_SIMD_FILE
