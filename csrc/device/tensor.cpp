#include "device/tensor.h"

#include <algorithm>

#include "base/error.h"

namespace weft::device {

int64_t TensorView::numel() const {
  if (rank == 0) return 0;
  int64_t n = 1;
  for (int d = 0; d < rank; ++d) n *= shape[d];
  return n;
}

bool TensorView::is_contiguous() const {
  if (numel() == 0) return true;
  int64_t expected = 1;
  for (int d = rank - 1; d >= 0; --d) {
    if (shape[d] != 1 && stride[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

size_t TensorView::span_bytes() const {
  if (numel() == 0) return 0;
  int64_t last = 0;
  for (int d = 0; d < rank; ++d) last += (shape[d] - 1) * stride[d];
  return static_cast<size_t>(last + 1) * dtype_size(dtype);
}

namespace {

TensorView slice(const TensorView& view, int dim, int64_t begin, int64_t count, const char* what) {
  WEFT_CHECK(view.rank > 0, "{}: the view is undefined", what);
  WEFT_CHECK(begin >= 0 && count >= 0 && begin + count <= view.shape[dim], "{}: [{}, {}) is outside {}", what,
             begin, begin + count, view.describe());
  TensorView result = view;
  result.shape[dim] = count;
  // An empty slice at the end would point past the buffer, so it keeps the start.
  const int64_t offset = count == 0 ? 0 : begin * view.stride[dim];
  if (view.data != nullptr) {
    result.data = static_cast<std::byte*>(view.data) + offset * static_cast<int64_t>(dtype_size(view.dtype));
  }
  return result;
}

}  // namespace

TensorView TensorView::rows(int64_t begin, int64_t count) const {
  return slice(*this, 0, begin, count, "rows");
}

TensorView TensorView::columns(int64_t begin, int64_t count) const {
  return slice(*this, std::max(rank - 1, 0), begin, count, "columns");
}

TensorView TensorView::reshape(std::initializer_list<int64_t> new_shape) const {
  TensorView result = make_view(data, dtype, new_shape);
  WEFT_CHECK(result.numel() == numel(), "reshape: {} does not hold the elements of {}", result.describe(),
             describe());
  if (is_contiguous()) return result;
  const int kept = rank - 1;
  bool splits_last = result.rank >= kept && stride[kept] == 1;
  for (int d = 0; splits_last && d < kept; ++d) splits_last = result.shape[d] == shape[d];
  WEFT_CHECK(splits_last, "reshape: {} is strided, so only its innermost dimension may be split, not into {}",
             describe(), result.describe());
  for (int d = 0; d < kept; ++d) result.stride[d] = stride[d];
  return result;
}

std::string TensorView::describe() const {
  std::string text(dtype_name(dtype));
  text += '[';
  for (int d = 0; d < rank; ++d) text += fmt::format("{}{}", d == 0 ? "" : ", ", shape[d]);
  text += ']';
  return text;
}

TensorView make_view(void* data, DType dtype, std::initializer_list<int64_t> shape) {
  WEFT_CHECK(shape.size() >= 1 && shape.size() <= static_cast<size_t>(TensorView::kMaxRank),
             "make_view: {} dimensions; 1 to {} are possible", shape.size(), TensorView::kMaxRank);
  TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(shape.size())};
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  int64_t stride = 1;
  for (int d = view.rank - 1; d >= 0; --d) {
    WEFT_CHECK(view.shape[d] >= 0, "make_view: dimension {} is {}", d, view.shape[d]);
    view.stride[d] = stride;
    stride *= view.shape[d];
  }
  return view;
}

}  // namespace weft::device
