#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/error.h"
#include "ops/common.h"

/// Rows of strided tensors, and dtypes as types.
namespace weft::ops::cpu {

/// Rows that one task of parallel_for takes, so that a task is worth handing to another core.
inline int64_t rows_per_task(int64_t columns) {
  constexpr int64_t kElements = 16384;
  return std::max<int64_t>(1, kElements / std::max<int64_t>(1, columns));
}

/// Number of rows: the product of all dimensions but the last.
inline int64_t num_rows(const TensorView& view) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < view.rank; ++d) rows *= view.shape[d];
  return rows;
}

/// Start of row `r`, counted over all dimensions but the last, in row-major order.
inline std::byte* row_bytes(const TensorView& view, int64_t r) {
  int64_t element = 0;
  for (int d = view.rank - 2; d >= 0; --d) {
    element += r % view.shape[d] * view.stride[d];
    r /= view.shape[d];
  }
  return view.as<std::byte>() + element * static_cast<int64_t>(dtype_size(view.dtype));
}
template <class T>
T* row(const TensorView& view, int64_t r) {
  return reinterpret_cast<T*>(row_bytes(view, r));
}

/// Rows that exist when the op runs: *num_rows, or all `max_rows` if it is null.
inline int64_t read_num_rows(const char* op, const int32_t* num_rows, int64_t max_rows) {
  if (num_rows == nullptr) return max_rows;
  WEFT_CHECK(*num_rows >= 0 && *num_rows <= max_rows, "{}: num_rows={}, but the tensors hold {} rows", op,
             *num_rows, max_rows);
  return *num_rows;
}

/// Calls f(T{}) with the type of f32, bf16 or f16.
template <class F>
decltype(auto) visit_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(bf16{});
    case DType::kF16:
      return f(f16{});
    default:
      WEFT_THROW("no CPU kernel computes on {}", dtype_name(dtype));
  }
}

}  // namespace weft::ops::cpu
