#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/rms_norm_simd.h"
#include "ops/cpu/for_each_isa.h"
#define WEFT_SIMD_FILE "ops/cpu/rope_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

/// A token's place in the rope table and in the cache.
struct Place {
  const float* cos_sin;  // null: not rotated
  int64_t slot;          // -1: not written
};

Place place_of(const char* op, const TensorView& positions, const TensorView& cos_sin,
               const TensorView& slots, const TensorView& cache, int64_t token) {
  const int64_t position = positions.as<int32_t>()[token];
  WEFT_CHECK(position >= -1 && position < cos_sin.shape[0], "{}: positions[{}]={} is outside cos_sin = {}",
             op, token, position, cos_sin.describe());
  const int64_t slot = slots.as<int32_t>()[token];
  WEFT_CHECK(slot >= -1 && slot < cache.shape[0], "{}: slots[{}]={} is outside the cache = {}", op, token,
             slot, cache.describe());
  return {position < 0 ? nullptr : cos_sin.as<float>() + position * cos_sin.stride[0], slot};
}

/// to = x, normed if there is a weight.
template <class T>
void norm_or_copy(T* to, const T* x, const TensorView& weight, int64_t dim, float eps) {
  if (weight.defined()) {
    WEFT_CALL_ISA(rms_norm_row<T>, to, x, weight.as<T>(), dim, eps);
  } else if (to != x) {
    std::memcpy(to, x, static_cast<size_t>(dim) * sizeof(T));
  }
}

template <class T>
void rotate_head(T* x, const float* cos_sin, int64_t dim, bool interleaved) {
  if (cos_sin == nullptr) return;
  const int64_t half = dim / 2;
  if (interleaved) {
    WEFT_CALL_ISA(rope_head_interleaved<T>, x, cos_sin, cos_sin + half, half);
  } else {
    WEFT_CALL_ISA(rope_head<T>, x, cos_sin, cos_sin + half, half);
  }
}

template <class T>
T* head_of(const TensorView& x, int64_t row, int64_t head) {
  return x.as<T>() + row * x.stride[0] + head * x.stride[1];
}

}  // namespace

void qk_norm_rope_write(const QkNormRopeWriteArgs& args, ExecContext& context) {
  const int64_t dim = args.q.shape[2];
  const int64_t kv_heads = args.k.shape[1];
  visit_dtype(args.q.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t columns = (args.q.shape[1] + 2 * kv_heads) * dim;
    context.parallel_for(args.q.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Place place =
            place_of("qk_norm_rope_write", args.positions, args.cos_sin, args.slots, args.k_cache, t);
        for (int64_t h = 0; h < args.q.shape[1]; ++h) {
          T* q = head_of<T>(args.q, t, h);
          norm_or_copy(q, q, args.q_norm, dim, args.eps);
          rotate_head(q, place.cos_sin, dim, args.interleaved);
        }
        for (int64_t h = 0; h < kv_heads && place.slot >= 0; ++h) {
          T* k = head_of<T>(args.k_cache, place.slot, h);
          norm_or_copy(k, head_of<T>(args.k, t, h), args.k_norm, dim, args.eps);
          rotate_head(k, place.cos_sin, dim, args.interleaved);
          norm_or_copy(head_of<T>(args.v_cache, place.slot, h), head_of<T>(args.v, t, h), {}, dim, 0.0F);
        }
      }
    });
  });
}

void mla_norm_rope_write(const MlaNormRopeWriteArgs& args, ExecContext& context) {
  const int64_t rope_dim = args.q_rope.shape[2];
  const int64_t rank = args.kv_norm.shape[0];
  visit_dtype(args.q_rope.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t columns = args.q_rope.shape[1] * rope_dim + rank + rope_dim;
    context.parallel_for(args.q_rope.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Place place =
            place_of("mla_norm_rope_write", args.positions, args.cos_sin, args.slots, args.cache, t);
        for (int64_t h = 0; h < args.q_rope.shape[1]; ++h) {
          rotate_head(head_of<T>(args.q_rope, t, h), place.cos_sin, rope_dim, args.interleaved);
        }
        if (place.slot < 0) continue;
        const T* from = row<T>(args.latents, t);
        T* to = row<T>(args.cache, place.slot);
        norm_or_copy(to, from, args.kv_norm, rank, args.eps);
        norm_or_copy(to + rank, from + rank, {}, rope_dim, 0.0F);
        rotate_head(to + rank, place.cos_sin, rope_dim, args.interleaved);
      }
    });
  });
}

}  // namespace weft::ops::cpu
