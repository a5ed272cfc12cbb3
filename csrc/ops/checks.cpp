#include "ops/checks.h"

#include <string>

#include "base/error.h"

namespace weft::ops {

void check_shape(std::string_view op, std::string_view name, const TensorView& view,
                 std::initializer_list<int64_t> shape) {
  bool same = static_cast<size_t>(view.rank) == shape.size();
  std::string expected;
  int d = 0;
  for (const int64_t extent : shape) {
    if (same && extent != -1 && view.shape[d] != extent) same = false;
    expected += (d == 0 ? "" : ", ") + (extent == -1 ? std::string("any") : std::to_string(extent));
    ++d;
  }
  WEFT_CHECK(same, "{}: {} is {}; its shape must be [{}]", op, name,
             view.defined() ? view.describe() : "undefined", expected);
}

void check_dtype(std::string_view op, std::string_view name, const TensorView& view, DType dtype) {
  WEFT_CHECK(view.dtype == dtype, "{}: {} is {}; its dtype must be {}", op, name, view.describe(),
             dtype_name(dtype));
}

void check_compute_dtype(std::string_view op, std::string_view name, const TensorView& view) {
  WEFT_CHECK(view.dtype == DType::kF32 || view.dtype == DType::kBF16 || view.dtype == DType::kF16,
             "{}: {} is {}; its dtype must be f32, bf16 or f16", op, name, view.describe());
}

void check_dense_rows(std::string_view op, std::string_view name, const TensorView& view) {
  const int last = view.rank - 1;
  WEFT_CHECK(last >= 0 && (view.shape[last] <= 1 || view.stride[last] == 1),
             "{}: {} is {} with stride {} in its last dimension; it must be 1", op, name, view.describe(),
             last >= 0 ? view.stride[last] : 0);
}

void check_writable_rows(std::string_view op, std::string_view name, const TensorView& view) {
  check_dense_rows(op, name, view);
  if (view.numel() == 0) return;
  // Each dimension must step over all that the dimensions of smaller stride span.
  for (int d = 0; d < view.rank; ++d) {
    if (view.shape[d] == 1) continue;
    int64_t span = 1;
    for (int e = 0; e < view.rank; ++e) {
      const bool inner = view.stride[e] < view.stride[d] || (view.stride[e] == view.stride[d] && e > d);
      if (e != d && inner) span += (view.shape[e] - 1) * view.stride[e];
    }
    WEFT_CHECK(view.stride[d] >= span, "{}: rows of {} = {} overlap (stride {}, needed {})", op, name,
               view.describe(), view.stride[d], span);
  }
}

void check_input(std::string_view op, std::string_view name, const TensorView& view, DType dtype,
                 std::initializer_list<int64_t> shape) {
  check_shape(op, name, view, shape);
  check_dtype(op, name, view, dtype);
  check_dense_rows(op, name, view);
}

void check_output(std::string_view op, std::string_view name, const TensorView& view, DType dtype,
                  std::initializer_list<int64_t> shape) {
  check_shape(op, name, view, shape);
  check_dtype(op, name, view, dtype);
  check_writable_rows(op, name, view);
}

}  // namespace weft::ops
