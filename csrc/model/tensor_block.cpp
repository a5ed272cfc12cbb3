#include "model/tensor_block.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "base/error.h"
#include "base/json.h"

namespace weft::model {

std::string describe_shape(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

TensorBlock make_block(std::string_view name, std::span<const int64_t> full_shape,
                       std::span<const Slice> slices, const device::TensorView& dst) {
  const std::string quoted = json::excerpt(name);
  const size_t rank = full_shape.size();
  WEFT_CHECK(slices.size() <= rank, "tensor {}: {} slices for shape {}", quoted, slices.size(),
             describe_shape(full_shape));
  TensorBlock block;
  block.full_shape.assign(full_shape.begin(), full_shape.end());
  for (size_t d = 0; d < rank; ++d) {
    const Slice slice = d < slices.size() ? slices[d] : Slice{};
    const int64_t end = slice.end == -1 ? full_shape[d] : slice.end;
    WEFT_CHECK(0 <= slice.begin && slice.begin <= end && end <= full_shape[d],
               "tensor {}: slice [{}, {}) of dimension {} is outside shape {}", quoted, slice.begin, end, d,
               describe_shape(full_shape));
    block.begin.push_back(slice.begin);
    block.shape.push_back(end - slice.begin);
  }
  const std::span<const int64_t> dst_shape(dst.shape.data(), static_cast<size_t>(dst.rank));
  WEFT_CHECK(std::equal(dst_shape.begin(), dst_shape.end(), block.shape.begin(), block.shape.end()),
             "tensor {}: a block of shape {} does not fit a destination of shape {}", quoted,
             describe_shape(block.shape), describe_shape(dst_shape));
  WEFT_CHECK(rank == 0 || dst.stride[rank - 1] == 1,
             "tensor {}: the destination's innermost stride is {}, not 1", quoted,
             rank == 0 ? 0 : dst.stride[rank - 1]);
  return block;
}

namespace {

float to_f32(float x) { return x; }
using weft::to_f32;

template <class Dst>
Dst from_f32(float x) {
  if constexpr (std::is_same_v<Dst, bf16>) {
    return to_bf16(x);
  } else if constexpr (std::is_same_v<Dst, f16>) {
    return to_f16(x);
  } else {
    return x;
  }
}

template <class Src, class Dst>
void convert_typed(std::string_view name, const std::byte* src, void* dst, int64_t count) {
  auto* out = static_cast<Dst*>(dst);
  bool overflow = false;
  for (int64_t i = 0; i < count; ++i) {
    Src x;
    std::memcpy(&x, src + i * static_cast<int64_t>(sizeof(Src)), sizeof(Src));
    const float value = to_f32(x);
    out[i] = from_f32<Dst>(value);
    if constexpr (std::is_same_v<Dst, f16>) {
      overflow |= (out[i].bits & 0x7fffU) == 0x7c00U && std::isfinite(value);
    }
  }
  WEFT_CHECK(!overflow, "tensor {}: a value is beyond f16's 65504; load it with --dtype bfloat16",
             json::excerpt(name));
}

template <class Src>
bool convert_from(std::string_view name, const std::byte* src, DType dst_dtype, void* dst, int64_t count) {
  switch (dst_dtype) {
    case DType::kF32:
      convert_typed<Src, float>(name, src, dst, count);
      return true;
    case DType::kBF16:
      convert_typed<Src, bf16>(name, src, dst, count);
      return true;
    case DType::kF16:
      convert_typed<Src, f16>(name, src, dst, count);
      return true;
    default:
      return false;
  }
}

}  // namespace

void convert_elements(std::string_view name, DType src_dtype, const std::byte* src, DType dst_dtype,
                      void* dst, int64_t count) {
  if (src_dtype == dst_dtype) {
    std::memcpy(dst, src, static_cast<size_t>(count) * dtype_size(dst_dtype));
    return;
  }
  bool converted = false;
  switch (src_dtype) {
    case DType::kF32:
      converted = convert_from<float>(name, src, dst_dtype, dst, count);
      break;
    case DType::kBF16:
      converted = convert_from<bf16>(name, src, dst_dtype, dst, count);
      break;
    case DType::kF16:
      converted = convert_from<f16>(name, src, dst_dtype, dst, count);
      break;
    default:
      break;
  }
  WEFT_CHECK(converted, "tensor {}: no conversion from {} to {}", json::excerpt(name), dtype_name(src_dtype),
             dtype_name(dst_dtype));
}

}  // namespace weft::model
