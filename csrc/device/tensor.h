#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "base/dtype.h"

namespace weft::device {

/// A strided view of device memory; owns nothing. Trivially copyable, so it may stand in an op's Args.
///
/// shape and stride count elements, outermost first; only the first `rank` entries mean something.
struct TensorView {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> stride{};

  [[nodiscard]] bool defined() const { return rank != 0; }
  [[nodiscard]] int64_t numel() const;
  /// The innermost dimension has stride 1 and nothing lies between rows.
  [[nodiscard]] bool is_contiguous() const;
  /// Bytes from `data` to the end of the last element; 0 if empty. The range that an op declares.
  [[nodiscard]] size_t span_bytes() const;
  /// Rows [begin, begin + count) of the outermost dimension.
  [[nodiscard]] TensorView rows(int64_t begin, int64_t count) const;
  /// Columns [begin, begin + count) of the innermost dimension; strides stay.
  [[nodiscard]] TensorView columns(int64_t begin, int64_t count) const;
  /// The same elements under another shape of equal numel. Throws unless contiguous, or unless only the
  /// innermost dimension is split (then its stride must be 1).
  [[nodiscard]] TensorView reshape(std::initializer_list<int64_t> new_shape) const;
  /// "f32[3, 64]".
  [[nodiscard]] std::string describe() const;

  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data);
  }
};
static_assert(std::is_trivially_copyable_v<TensorView>);

/// A contiguous view. Shapes may hold zeros; at most kMaxRank dimensions.
[[nodiscard]] TensorView make_view(void* data, DType dtype, std::initializer_list<int64_t> shape);

}  // namespace weft::device
