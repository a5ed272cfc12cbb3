#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/cpu/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/add_simd.h"
#include "ops/cpu/for_each_isa.h"
#define WEFT_SIMD_FILE "ops/cpu/rms_norm_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {

void rms_norm(const RmsNormArgs& args, ExecContext& context) {
  const int64_t dim = args.x.shape[args.x.rank - 1];
  visit_dtype(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    context.parallel_for(num_rows(args.x), rows_per_task(dim), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        if (args.residual.defined()) {
          std::memmove(row<T>(args.residual, r), row<T>(args.x, r), static_cast<size_t>(dim) * sizeof(T));
        }
        WEFT_CALL_ISA(rms_norm_row<T>, row<T>(args.out, r), row<T>(args.x, r), args.weight.as<T>(), dim,
                      args.eps);
      }
    });
  });
}

void add_rms_norm(const AddRmsNormArgs& args, ExecContext& context) {
  const int64_t dim = args.x.shape[1];
  visit_dtype(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    context.parallel_for(args.x.shape[0], rows_per_task(dim), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        T* residual = row<T>(args.residual, r);
        WEFT_CALL_ISA(add_row<T>, residual, residual, row<T>(args.x, r), dim);
        WEFT_CALL_ISA(rms_norm_row<T>, row<T>(args.out, r), residual, args.weight.as<T>(), dim, args.eps);
      }
    });
  });
}

}  // namespace weft::ops::cpu
