#include "base/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/add_simd.h"
#include "ops/cpu/for_each_isa.h"
#define WEFT_SIMD_FILE "ops/cpu/cast_simd.h"
#include "ops/cpu/for_each_isa.h"
#define WEFT_SIMD_FILE "ops/cpu/elementwise_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {

void add(const AddArgs& args, ExecContext& context) {
  const int64_t columns = args.out.shape[1];
  visit_dtype(args.out.dtype, [&](auto type) {
    using T = decltype(type);
    context.parallel_for(args.out.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        WEFT_CALL_ISA(add_row<T>, row<T>(args.out, r), row<T>(args.a, r), row<T>(args.b, r), columns);
      }
    });
  });
}

void cast(const CastArgs& args, ExecContext& context) {
  const int64_t columns = args.out.shape[1];
  visit_dtype(args.out.dtype, [&](auto out_type) {
    using Out = decltype(out_type);
    visit_dtype(args.x.dtype, [&](auto in_type) {
      using In = decltype(in_type);
      context.parallel_for(args.out.shape[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          WEFT_CALL_ISA(cast_row, row<Out>(args.out, r), row<In>(args.x, r), columns);
        }
      });
    });
  });
}

void silu_mul(const SiluMulArgs& args, ExecContext& context) {
  const bool grouped = args.gate_up.rank == 3;
  const int64_t inter = args.out.shape[args.out.rank - 1];
  const int64_t rows = args.out.shape[args.out.rank - 2];
  visit_dtype(args.out.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t g = 0; g < (grouped ? args.out.shape[0] : 1); ++g) {
      const int64_t count = args.num_rows == nullptr ? rows : args.num_rows[g];
      WEFT_CHECK(count >= 0 && count <= rows, "silu_mul: num_rows[{}]={} is outside gate_up = {}", g, count,
                 args.gate_up.describe());
      context.parallel_for(count, rows_per_task(inter), [&](int64_t begin, int64_t end) {
        for (int64_t r = g * rows + begin; r < g * rows + end; ++r) {
          const T* gate = row<T>(args.gate_up, r);
          WEFT_CALL_ISA(silu_mul_row<T>, row<T>(args.out, r), gate, gate + inter, inter);
        }
      });
    }
  });
}

}  // namespace weft::ops::cpu
