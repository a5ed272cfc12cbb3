#include "ops/cpu/gemm_tiles.h"

#include <algorithm>

#include "base/error.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/gemm_tiles_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

template <class T>
const DotTiles& dot_tiles_of() {
  switch (current_isa()) {
#if WEFT_X86
    case Isa::kAvx512Bf16:
    case Isa::kAvx512:
      return avx512::kDotTiles<T>;
    case Isa::kAvx2:
      return avx2::kDotTiles<T>;
#endif
    default:
      return portable::kDotTiles<T>;
  }
}

template <class T>
const AxpyTiles& axpy_tiles_of() {
  switch (current_isa()) {
#if WEFT_X86
    case Isa::kAvx512Bf16:
    case Isa::kAvx512:
      return avx512::kAxpyTiles<T>;
    case Isa::kAvx2:
      return avx2::kAxpyTiles<T>;
#endif
    default:
      return portable::kAxpyTiles<T>;
  }
}

}  // namespace

const DotTiles& dot_tiles(DType dtype) {
#if WEFT_X86
  if (dtype == DType::kBF16 && current_isa() == Isa::kAvx512Bf16) return kBf16PairTiles;
#endif
  return visit_dtype(dtype, [](auto type) -> const DotTiles& { return dot_tiles_of<decltype(type)>(); });
}

const AxpyTiles& axpy_tiles(DType dtype) {
  return visit_dtype(dtype, [](auto type) -> const AxpyTiles& { return axpy_tiles_of<decltype(type)>(); });
}

void finish_row(std::byte* out, DType out_dtype, const float* sums, const std::byte* bias, DType dtype,
                int64_t columns) {
  visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const T* typed_bias = reinterpret_cast<const T*>(bias);
    if (out_dtype == DType::kF32) {
      WEFT_CALL_ISA(finish_row, reinterpret_cast<float*>(out), sums, typed_bias, columns);
    } else {
      WEFT_CALL_ISA(finish_row, reinterpret_cast<T*>(out), sums, typed_bias, columns);
    }
  });
}

}  // namespace weft::ops::cpu
