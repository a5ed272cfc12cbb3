#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "ops/common.h"

/// Checks of op arguments on the host, before anything is enqueued. Each throws Error naming the op, the
/// argument, what it is and what it must be.
namespace weft::ops {

/// `view` has exactly these extents; -1 stands for any.
void check_shape(std::string_view op, std::string_view name, const TensorView& view,
                 std::initializer_list<int64_t> shape);
void check_dtype(std::string_view op, std::string_view name, const TensorView& view, DType dtype);
/// f32, bf16 or f16: what ops compute on.
void check_compute_dtype(std::string_view op, std::string_view name, const TensorView& view);
/// The innermost dimension is dense.
void check_dense_rows(std::string_view op, std::string_view name, const TensorView& view);
/// Dense rows that do not overlap: what an op may write in parallel.
void check_writable_rows(std::string_view op, std::string_view name, const TensorView& view);
/// An input of this dtype and shape (-1 stands for any extent), its rows dense.
void check_input(std::string_view op, std::string_view name, const TensorView& view, DType dtype,
                 std::initializer_list<int64_t> shape);
/// An output of this dtype and shape, its rows writable in parallel.
void check_output(std::string_view op, std::string_view name, const TensorView& view, DType dtype,
                  std::initializer_list<int64_t> shape);

}  // namespace weft::ops
