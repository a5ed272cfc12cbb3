#include <algorithm>

#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/rope_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

template <class T>
void rope_token(const TensorView& x, int64_t token, const float* cos_sin, bool interleaved) {
  const int64_t half = x.shape[2] / 2;
  for (int64_t head = 0; head < x.shape[1]; ++head) {
    T* data = x.as<T>() + token * x.stride[0] + head * x.stride[1];
    if (interleaved) {
      WEFT_CALL_ISA(rope_head_interleaved<T>, data, cos_sin, cos_sin + half, half);
    } else {
      WEFT_CALL_ISA(rope_head<T>, data, cos_sin, cos_sin + half, half);
    }
  }
}

}  // namespace

void rope(const RopeArgs& args, ExecContext& context) {
  const int64_t columns = (args.q.shape[1] + args.k.shape[1]) * args.q.shape[2];
  visit_dtype(args.q.dtype, [&](auto type) {
    using T = decltype(type);
    context.parallel_for(args.q.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t position = args.positions.as<int32_t>()[t];
        WEFT_CHECK(position >= -1 && position < args.cos_sin.shape[0],
                   "rope: positions[{}]={} is outside cos_sin = {}", t, position, args.cos_sin.describe());
        if (position < 0) continue;
        const float* cos_sin = args.cos_sin.as<float>() + position * args.cos_sin.stride[0];
        rope_token<T>(args.q, t, cos_sin, args.interleaved);
        rope_token<T>(args.k, t, cos_sin, args.interleaved);
      }
    });
  });
}

}  // namespace weft::ops::cpu
