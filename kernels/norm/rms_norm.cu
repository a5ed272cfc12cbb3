// rms_norm and add_rms_norm. A row is read twice, the second time from L1 or L2: rows of any width need no
// shared memory for it.
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kWideThreads = 256;  // a block a row, from 2048 columns on
constexpr int kRowsOfNarrow = 4;   // else a warp a row: heads are 64 to 256 wide
constexpr int64_t kWideColumns = 2048;

struct NormShape {
  int64_t rows;
  int64_t packs;  // of a row
  int64_t dim;
  float eps;
};

// The threads of this row share the row's packs. kWide is fixed by dim, and so is the order of the sum.
template <bool kWide>
__device__ float row_sum(float sum, float* scratch) {
  if constexpr (kWide) {
    return block_reduce(sum, scratch, Sum{});
  } else {
    return warp_reduce(sum, Sum{});
  }
}

template <class T, int kPack, bool kWide, bool kAdd>
__global__ void rms_norm_kernel(OpSite site, RowView out, RowView x, RowView residual, const T* weight,
                                NormShape shape) {
  __shared__ float scratch[kWideThreads / kWarpSize];
  let_next_start();
  wait_for_inputs(site);
  const int64_t row = kWide ? blockIdx.x : int64_t{blockIdx.x} * kRowsOfNarrow + threadIdx.x / kWarpSize;
  if (row >= shape.rows) return;  // whole warps, and never in a wide block
  const int first = kWide ? static_cast<int>(threadIdx.x) : static_cast<int>(threadIdx.x) % kWarpSize;
  constexpr int kStep = kWide ? kWideThreads : kWarpSize;
  float sum = 0.0F;
  for (int64_t i = first; i < shape.packs; i += kStep) {
    auto values = x.pack<T, kPack>(row, i);
    if constexpr (kAdd) {
      const auto before = residual.pack<T, kPack>(row, i);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        values.at[j] = from_float<T>(to_float(before.at[j]) + to_float(values.at[j]));
      }
      residual.pack<T, kPack>(row, i) = values;
    }
#pragma unroll
    for (int j = 0; j < kPack; ++j) sum = fmaf(to_float(values.at[j]), to_float(values.at[j]), sum);
  }
  const float scale = 1.0F / sqrtf(row_sum<kWide>(sum, scratch) / static_cast<float>(shape.dim) + shape.eps);
  const RowView& from = kAdd ? residual : x;
  for (int64_t i = first; i < shape.packs; i += kStep) {
    const auto values = from.pack<T, kPack>(row, i);  // its own thread wrote it, if anyone did
    const auto weights = reinterpret_cast<const Pack<T, kPack>*>(weight)[i];
    Pack<T, kPack> result;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      result.at[j] = from_float<T>(to_float(values.at[j]) * scale * to_float(weights.at[j]));
    }
    out.pack<T, kPack>(row, i) = result;
  }
}

template <class T, int kPack, bool kAdd>
void launch_norm(const CudaContext& context, const RowView& out, const RowView& x, const RowView& residual,
                 const TensorView& weight, int64_t rows, float eps) {
  const NormShape shape{.rows = rows, .packs = weight.shape[0] / kPack, .dim = weight.shape[0], .eps = eps};
  const T* weights = weight.as<T>();
  if (shape.dim >= kWideColumns) {
    launch<&rms_norm_kernel<T, kPack, true, kAdd>>(context,
                                                   {.grid = dim3(grid_x(rows)), .block = dim3(kWideThreads)},
                                                   context.site, out, x, residual, weights, shape);
  } else {
    launch<&rms_norm_kernel<T, kPack, false, kAdd>>(
        context,
        {.grid = dim3(grid_x(ceil_div<int64_t>(rows, kRowsOfNarrow))),
         .block = dim3(kRowsOfNarrow * kWarpSize)},
        context.site, out, x, residual, weights, shape);
  }
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void rms_norm(const RmsNormArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const int64_t dim = args.weight.shape[0];
  visit_dtype("rms_norm", args.x.dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed = has_packed_rows<T>(args.x, dim) && has_packed_rows<T>(args.out, dim) &&
                        has_packed_rows<T>(args.weight, dim);
    const auto run = packed ? &launch_norm<T, kPackOf16Bytes<T>, false> : &launch_norm<T, 1, false>;
    run(cuda, rows_of(args.out), rows_of(args.x), RowView{}, args.weight, count_rows(args.x), args.eps);
  });
}

void add_rms_norm(const AddRmsNormArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const int64_t dim = args.weight.shape[0];
  visit_dtype("add_rms_norm", args.x.dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed = has_packed_rows<T>(args.x, dim) && has_packed_rows<T>(args.out, dim) &&
                        has_packed_rows<T>(args.residual, dim) && has_packed_rows<T>(args.weight, dim);
    const auto run = packed ? &launch_norm<T, kPackOf16Bytes<T>, true> : &launch_norm<T, 1, true>;
    run(cuda, rows_of(args.out), rows_of(args.x), rows_of(args.residual), args.weight, args.x.shape[0],
        args.eps);
  });
}

}  // namespace weft::ops::cuda
