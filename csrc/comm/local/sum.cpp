#include "comm/local/sum.h"

#include <algorithm>
#include <type_traits>

#include "base/error.h"

namespace weft::comm::local {
namespace {

constexpr int64_t kTile = 512;     // accumulators, kept in the first-level cache
constexpr int64_t kGrain = 16384;  // elements; less is not worth a second thread

// The accumulator of T, and the way there and back. Integers wrap, so they are summed unsigned.
inline float widen(float x) { return x; }
inline float widen(bf16 x) { return to_f32(x); }
inline float widen(f16 x) { return to_f32(x); }
inline uint32_t widen(uint32_t x) { return x; }
inline uint64_t widen(uint64_t x) { return x; }
template <class T, class Acc>
T narrow(Acc x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(x);
  } else if constexpr (std::is_same_v<T, f16>) {
    return to_f16(x);
  } else {
    return x;
  }
}

template <class T>
void sum_as(void* out, std::span<const void* const> inputs, int64_t count, device::ExecContext& context) {
  using Acc = decltype(widen(T{}));
  context.parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    Acc acc[kTile];
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t n = std::min(kTile, end - tile);
      const T* first = static_cast<const T*>(inputs[0]) + tile;
      for (int64_t i = 0; i < n; ++i) acc[i] = widen(first[i]);
      for (const void* input : inputs.subspan(1)) {
        const T* in = static_cast<const T*>(input) + tile;
        for (int64_t i = 0; i < n; ++i) acc[i] += widen(in[i]);
      }
      T* target = static_cast<T*>(out) + tile;
      for (int64_t i = 0; i < n; ++i) target[i] = narrow<T>(acc[i]);
    }
  });
}

}  // namespace

bool can_sum(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kI32 ||
         dtype == DType::kI64;
}

void sum(DType dtype, void* out, std::span<const void* const> inputs, int64_t count,
         device::ExecContext& context) {
  switch (dtype) {
    case DType::kF32:
      return sum_as<float>(out, inputs, count, context);
    case DType::kBF16:
      return sum_as<bf16>(out, inputs, count, context);
    case DType::kF16:
      return sum_as<f16>(out, inputs, count, context);
    case DType::kI32:
      return sum_as<uint32_t>(out, inputs, count, context);
    case DType::kI64:
      return sum_as<uint64_t>(out, inputs, count, context);
    default:
      WEFT_THROW("sum: dtype {} has no sum; use f32, bf16, f16, i32 or i64", dtype_name(dtype));
  }
}

}  // namespace weft::comm::local
