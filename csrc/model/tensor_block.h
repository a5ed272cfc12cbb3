#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "device/tensor.h"
#include "model/checkpoint.h"

namespace weft::model {

/// A sub-block of a row-major tensor, resolved: what a read copies.
struct TensorBlock {
  std::vector<int64_t> full_shape;
  std::vector<int64_t> begin;  // one a dimension
  std::vector<int64_t> shape;  // of the block
};

/// "[3, 64]".
[[nodiscard]] std::string describe_shape(std::span<const int64_t> shape);

/// Checks slices against full_shape and the block's shape against dst. Throws Error with `name`.
[[nodiscard]] TensorBlock make_block(std::string_view name, std::span<const int64_t> full_shape,
                                     std::span<const Slice> slices, const device::TensorView& dst);

/// Calls row(index of the row's first element in the whole tensor, address in dst) for each innermost row of
/// the block that has elements; a scalar is one row.
template <class Row>
void for_each_row(const TensorBlock& block, const device::TensorView& dst, Row&& row) {
  const size_t rank = block.shape.size();
  for (const int64_t extent : block.shape) {
    if (extent == 0) return;
  }
  std::vector<int64_t> at(rank, 0);
  while (true) {
    int64_t source = 0;
    int64_t target = 0;
    for (size_t d = 0; d < rank; ++d) {
      source = source * block.full_shape[d] + block.begin[d] + at[d];
      target += at[d] * dst.stride[d];
    }
    row(source, static_cast<char*>(dst.data) + target * static_cast<int64_t>(dtype_size(dst.dtype)));
    size_t d = rank < 2 ? 0 : rank - 1;  // dimensions before d count up, the innermost is the row itself
    while (d > 0 && ++at[d - 1] == block.shape[d - 1]) at[--d] = 0;
    if (d == 0) return;
  }
}

/// Converts `count` elements from `src` (perhaps unaligned) to `dst`. Throws Error with `name`.
void convert_elements(std::string_view name, DType src_dtype, const std::byte* src, DType dst_dtype,
                      void* dst, int64_t count);

}  // namespace weft::model
