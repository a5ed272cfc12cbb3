// add, cast and silu_mul: one pass over memory, so all that matters is that accesses are 16 bytes wide.
#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256;

// Blocks: x is the row, y the part of its columns; one thread a pack.
LaunchShape row_shape(int64_t rows, int64_t packs) {
  return {.grid = dim3(grid_x(rows), static_cast<unsigned>(ceil_div<int64_t>(packs, kThreads))),
          .block = dim3(kThreads)};
}

__device__ inline int64_t pack_index() { return int64_t{blockIdx.y} * kThreads + threadIdx.x; }

template <class T, int kPack>
__global__ void add_kernel(OpSite site, RowView out, RowView a, RowView b, int64_t packs) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = pack_index();
  if (i >= packs) return;
  const auto x = a.pack<T, kPack>(blockIdx.x, i);
  const auto y = b.pack<T, kPack>(blockIdx.x, i);
  Pack<T, kPack> sum;
#pragma unroll
  for (int j = 0; j < kPack; ++j) sum.at[j] = from_float<T>(to_float(x.at[j]) + to_float(y.at[j]));
  out.pack<T, kPack>(blockIdx.x, i) = sum;
}

template <class Out, class In, int kPack>
__global__ void cast_kernel(OpSite site, RowView out, RowView x, int64_t packs) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = pack_index();
  if (i >= packs) return;
  const auto from = x.pack<In, kPack>(blockIdx.x, i);
  Pack<Out, kPack> to;
#pragma unroll
  for (int j = 0; j < kPack; ++j) to.at[j] = from_float<Out>(to_float(from.at[j]));
  out.pack<Out, kPack>(blockIdx.x, i) = to;
}

/// Accurate enough to round to T.
template <class T>
__device__ float silu(float x) {
#if !WEFT_CUDA_EMULATED
  if constexpr (sizeof(T) == 2) return __fdividef(x, 1.0F + __expf(-x));
#endif
  return x / (1.0F + expf(-x));
}

constexpr char kBadCount[] = "silu_mul: num_rows[{}]={} is outside gate_up = [.., {}, ..]";

// Rows of a group that do not exist leave at once: only memory knows how many do.
template <class T, int kPack>
__global__ void silu_mul_kernel(OpSite site, const char* bad_count, RowView out, RowView gate_up,
                                const int32_t* num_rows, int64_t rows, int64_t packs) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = pack_index();
  const int64_t group = blockIdx.x / rows;
  if (num_rows != nullptr) {
    const int32_t count = num_rows[group];
    if ((count < 0 || count > rows) && threadIdx.x == 0) fail(site, bad_count, group, count, rows);
    if (blockIdx.x - group * rows >= count) return;
  }
  if (i >= packs) return;
  const auto gate = gate_up.pack<T, kPack>(blockIdx.x, i);
  const auto up = gate_up.pack<T, kPack>(blockIdx.x, packs + i);
  Pack<T, kPack> product;
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    product.at[j] = from_float<T>(silu<T>(to_float(gate.at[j])) * to_float(up.at[j]));
  }
  out.pack<T, kPack>(blockIdx.x, i) = product;
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void add(const AddArgs& args, ExecContext& context) {
  const int64_t columns = args.out.shape[1];
  const RowView out = rows_of(args.out);
  const RowView a = rows_of(args.a);
  const RowView b = rows_of(args.b);
  visit_dtype("add", args.out.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackOf16Bytes<T>;
    if (has_packed_rows<T>(args.out, columns) && has_packed_rows<T>(args.a, columns) &&
        has_packed_rows<T>(args.b, columns)) {
      launch<&add_kernel<T, kPack>>(cuda_context(context), row_shape(args.out.shape[0], columns / kPack),
                                    cuda_context(context).site, out, a, b, columns / kPack);
    } else {
      launch<&add_kernel<T, 1>>(cuda_context(context), row_shape(args.out.shape[0], columns),
                                cuda_context(context).site, out, a, b, columns);
    }
  });
}

void cast(const CastArgs& args, ExecContext& context) {
  const int64_t columns = args.out.shape[1];
  const RowView out = rows_of(args.out);
  const RowView x = rows_of(args.x);
  visit_dtype("cast", args.out.dtype, [&](auto out_type) {
    using Out = decltype(out_type);
    visit_dtype("cast", args.x.dtype, [&](auto in_type) {
      using In = decltype(in_type);
      constexpr int kPack = 4;  // 16 bytes of f32, on whichever side it stands
      if (has_packed_rows<Out>(args.out, columns) && has_packed_rows<In>(args.x, columns)) {
        launch<&cast_kernel<Out, In, kPack>>(cuda_context(context),
                                             row_shape(args.out.shape[0], columns / kPack),
                                             cuda_context(context).site, out, x, columns / kPack);
      } else {
        launch<&cast_kernel<Out, In, 1>>(cuda_context(context), row_shape(args.out.shape[0], columns),
                                         cuda_context(context).site, out, x, columns);
      }
    });
  });
}

void silu_mul(const SiluMulArgs& args, ExecContext& context) {
  const int64_t inter = args.out.shape[args.out.rank - 1];
  const int64_t rows = args.out.shape[args.out.rank - 2];
  const RowView out = rows_of(args.out);
  const RowView gate_up = rows_of(args.gate_up);
  visit_dtype("silu_mul", args.out.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackOf16Bytes<T>;
    if (has_packed_rows<T>(args.out, inter) && has_packed_rows<T>(args.gate_up, inter)) {
      launch<&silu_mul_kernel<T, kPack>>(
          cuda_context(context), row_shape(count_rows(args.out), inter / kPack), cuda_context(context).site,
          kBadCount, out, gate_up, args.num_rows, rows, inter / kPack);
    } else {
      launch<&silu_mul_kernel<T, 1>>(cuda_context(context), row_shape(count_rows(args.out), inter),
                                     cuda_context(context).site, kBadCount, out, gate_up, args.num_rows, rows,
                                     inter);
    }
  });
}

}  // namespace weft::ops::cuda
