#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

/// Rows as bytes: what embedding, gather_rows and moe_permute move.
namespace weft::kernels {

/// The widest access, of 16, 8, 4, 2 or 1 bytes, that fits addresses and lengths which are all multiples of
/// what is or-ed into `bits`.
inline int widest_access(uintptr_t bits) {
  for (int width = 16; width > 1; width /= 2) {
    if (bits % static_cast<unsigned>(width) == 0) return width;
  }
  return 1;
}

template <int kWidth>
struct AccessOf;
template <>
struct AccessOf<16> {
  using Type = uint4;
};
template <>
struct AccessOf<8> {
  using Type = uint2;
};
template <>
struct AccessOf<4> {
  using Type = uint32_t;
};
template <>
struct AccessOf<2> {
  using Type = uint16_t;
};
template <>
struct AccessOf<1> {
  using Type = uint8_t;
};

/// Copies num_bytes (a multiple of kWidth) by all threads of the block; from == nullptr stores zeros.
template <int kWidth>
__device__ void copy_row(std::byte* to, const std::byte* from, int64_t num_bytes) {
  using Access = typename AccessOf<kWidth>::Type;
  for (int64_t i = threadIdx.x; i < num_bytes / kWidth; i += blockDim.x) {
    reinterpret_cast<Access*>(to)[i] = from == nullptr ? Access{} : reinterpret_cast<const Access*>(from)[i];
  }
}

/// Threads of a block that copies rows of num_bytes: enough for one access each, whole warps, at most 256.
inline unsigned copy_threads(int64_t num_bytes, int width) {
  const int64_t accesses = num_bytes / width;
  return accesses >= 256 ? 256U : static_cast<unsigned>((accesses + 31) / 32 * 32);
}

/// Calls f(std::integral_constant<int, width>) for a width of widest_access().
template <class F>
void visit_width(int width, const F& f) {
  switch (width) {
    case 16:
      return f(std::integral_constant<int, 16>{});
    case 8:
      return f(std::integral_constant<int, 8>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    default:
      return f(std::integral_constant<int, 1>{});
  }
}

}  // namespace weft::kernels
