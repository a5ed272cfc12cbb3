#include <algorithm>

#include "base/error.h"
#include "base/math.h"
#include "ops/cpu/gemm_block.h"
#include "ops/cpu/kernels.h"

namespace weft::ops::cpu {
namespace {

const std::byte* at(const TensorView& view, int64_t element) {
  return view.as<std::byte>() + element * static_cast<int64_t>(dtype_size(view.dtype));
}
std::byte* writable_at(const TensorView& view, int64_t element) {
  return view.as<std::byte>() + element * static_cast<int64_t>(dtype_size(view.dtype));
}

}  // namespace

void gemm(const GemmArgs& args, ExecContext& context) {
  const Product product = {.out = writable_at(args.out, 0),
                           .a = at(args.a, 0),
                           .w = at(args.w, 0),
                           .bias = args.bias.defined() ? at(args.bias, 0) : nullptr,
                           .out_stride = args.out.stride[0],
                           .a_stride = args.a.stride[0],
                           .w_n_stride = args.w.stride[0],
                           .w_k_stride = 1,
                           .m = args.a.shape[0],
                           .n = args.w.shape[0],
                           .k = args.w.shape[1],
                           .dtype = args.a.dtype,
                           .out_dtype = args.out.dtype};
  const ProductList list = {.count = 1,
                            .n = product.n,
                            .k = product.k,
                            .mean_m = product.m,
                            .row_splits = ceil_div(product.m, kBlockRows)};
  compute_products(
      list, [&](int64_t) { return product; }, context);
}

void gemm_silu_mul(const GemmSiluMulArgs& args, ExecContext& context) {
  gemm({.out = args.gate_up, .a = args.a, .w = args.w, .bias = {}}, context);
  silu_mul({.out = args.out, .gate_up = args.gate_up}, context);
}

void batched_gemm(const BatchedGemmArgs& args, ExecContext& context) {
  const ProductList list = {.count = args.w.shape[0],
                            .n = args.w.shape[1],
                            .k = args.w.shape[2],
                            .mean_m = args.a.shape[0],
                            .row_splits = ceil_div(args.a.shape[0], kBlockRows)};
  const auto product = [&](int64_t b) {
    return Product{.out = writable_at(args.out, b * args.out.stride[1]),
                   .a = at(args.a, b * args.a.stride[1]),
                   .w = at(args.w, b * args.w.stride[0]),
                   .bias = nullptr,
                   .out_stride = args.out.stride[0],
                   .a_stride = args.a.stride[0],
                   .w_n_stride = args.w.stride[1],
                   .w_k_stride = args.w.stride[2],
                   .m = args.a.shape[0],
                   .n = args.w.shape[1],
                   .k = args.w.shape[2],
                   .dtype = args.a.dtype,
                   .out_dtype = args.out.dtype};
  };
  compute_products(list, product, context);
}

namespace {

/// Rows of group g as {first row, count}, in units of a row of `a` and `out`.
struct GroupRows {
  int64_t begin = 0;
  int64_t count = 0;
};

GroupRows group_rows(const GroupedGemmArgs& args, int64_t g) {
  if (args.offsets != nullptr) {
    const int64_t begin = round_up(args.offsets[g], args.alignment);
    const int64_t end = args.offsets[g + 1];
    WEFT_CHECK(begin >= 0 && begin <= end && end <= args.a.shape[0],
               "grouped_gemm: group {} owns rows [{}, {}), which are not inside a = {}", g, begin, end,
               args.a.describe());
    return {begin, end - begin};
  }
  const int64_t count = args.counts[g];
  WEFT_CHECK(count >= 0 && count <= args.a.shape[1], "grouped_gemm: counts[{}]={} does not fit a = {}", g,
             count, args.a.describe());
  return {0, count};
}

}  // namespace

void grouped_gemm(const GroupedGemmArgs& args, ExecContext& context) {
  const int64_t groups = args.w.shape[0];
  int64_t rows = 0;
  for (int64_t g = 0; g < groups; ++g) rows += group_rows(args, g).count;
  if (rows == 0) return;
  const bool masked = args.counts != nullptr;
  const int row_dim = masked ? 1 : 0;
  const auto product = [&](int64_t g) {
    const GroupRows group = group_rows(args, g);
    const int64_t slab = masked ? g : 0;
    return Product{.out = writable_at(args.out, slab * args.out.stride[0] * row_dim +
                                                    group.begin * args.out.stride[row_dim]),
                   .a = at(args.a, slab * args.a.stride[0] * row_dim + group.begin * args.a.stride[row_dim]),
                   .w = at(args.w, g * args.w.stride[0]),
                   .bias = nullptr,
                   .out_stride = args.out.stride[row_dim],
                   .a_stride = args.a.stride[row_dim],
                   .w_n_stride = args.w.stride[1],
                   .w_k_stride = 1,
                   .m = group.count,
                   .n = args.w.shape[1],
                   .k = args.w.shape[2],
                   .dtype = args.a.dtype,
                   .out_dtype = args.out.dtype};
  };
  // Groups with no rows cost nothing, so the mean over all groups is what a task costs.
  const ProductList list = {
      .count = groups, .n = args.w.shape[1], .k = args.w.shape[2], .mean_m = rows / groups, .row_splits = 1};
  compute_products(list, product, context);
}

}  // namespace weft::ops::cpu
