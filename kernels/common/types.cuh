#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "device/cuda/cuda_context.h"
#include "device/tensor.h"

/// Numbers and vectors of kernels.
namespace weft::kernels {

using device::TensorView;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ inline float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }

/// Rounds to nearest even.
template <class T>
__device__ T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(x);
  } else {
    return T{__half_as_ushort(__float2half_rn(x))};
  }
}

/// kCount elements that are loaded and stored as one.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};

template <class T>
constexpr int kPackOf16Bytes = 16 / static_cast<int>(sizeof(T));

/// True if every row of `view` starts at a multiple of 16 bytes and holds whole packs of 16 bytes.
template <class T>
bool has_packed_rows(const TensorView& view, int64_t columns) {
  constexpr int64_t kPack = kPackOf16Bytes<T>;
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0 || columns % kPack != 0) return false;
  for (int d = 0; d + 1 < view.rank; ++d) {
    if (view.stride[d] % kPack != 0 && view.shape[d] > 1) return false;
  }
  return true;
}

/// Calls f(T{}) with the type of f32, bf16 or f16, which is what ops let through.
template <class F>
void visit_dtype(const char* op, DType dtype, const F& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(bf16{});
    case DType::kF16:
      return f(f16{});
    default:
      device::cuda::refuse_op(op, "no CUDA kernel computes on this dtype");
  }
}

/// Row `r` of [.., columns], counted over all dimensions but the last, in row-major order.
struct RowView {
  void* data;
  int64_t outer_size;  // rows of the second last dimension
  int64_t outer_stride;
  int64_t stride;

  template <class T>
  __device__ T* row(int64_t r) const {
    const int64_t outer = outer_size == 0 ? 0 : r / outer_size;
    const int64_t inner = outer_size == 0 ? r : r - outer * outer_size;
    return static_cast<T*>(data) + outer * outer_stride + inner * stride;
  }
  /// Pack `i` of row `r`.
  template <class T, int kPack>
  __device__ Pack<T, kPack>& pack(int64_t r, int64_t i) const {
    return reinterpret_cast<Pack<T, kPack>*>(row<T>(r))[i];
  }
};
/// Of a view of rank 2 or 3. All that a kernel needs of it, and less to pass.
inline RowView rows_of(const TensorView& view) {
  if (view.rank == 2) return {view.data, 0, 0, view.stride[0]};
  return {view.data, view.shape[1], view.stride[0], view.stride[1]};
}
inline int64_t count_rows(const TensorView& view) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < view.rank; ++d) rows *= view.shape[d];
  return rows;
}

template <class T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace weft::kernels
