// rms_norm and add_rms_norm: a block a row, held in registers between the sum and the result. With few rows
// latency is all: one round of loads, one barrier; the weights are there before the inputs are.
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kMaxThreads = 512;

/// What becomes of the residual: there is none; it keeps x as it is; x is added to it, and the sum is normed.
enum class Residual { kNone, kKeep, kAdd };

struct NormRows {
  RowView out, x, residual;
  const void* weight;
  int32_t packs;  // of a row
  int32_t dim;
  float eps;
};

/// In the order of dim alone. One barrier.
__device__ inline float sum_of_row(float sum, float* scratch) {
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarpSize;
  return warp_reduce(lane < blockDim.x / kWarpSize ? scratch[lane] : 0.0F, Sum{});
}

template <class T, int kPack, Residual kResidual>
__device__ Pack<T, kPack> load_row(const NormRows& a, int64_t row, int64_t i, float& sum) {
  auto values = a.x.pack<T, kPack>(row, i);
  if constexpr (kResidual == Residual::kAdd) {
    const auto before = a.residual.pack<T, kPack>(row, i);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      values.at[j] = from_float<T>(to_float(before.at[j]) + to_float(values.at[j]));
    }
  }
#pragma unroll
  for (int j = 0; j < kPack; ++j) sum = fmaf(to_float(values.at[j]), to_float(values.at[j]), sum);
  return values;
}

template <class T, int kPack>
__device__ Pack<T, kPack> normed(const Pack<T, kPack>& values, float scale, const Pack<T, kPack>& weights) {
  Pack<T, kPack> result;
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    result.at[j] = from_float<T>(to_float(values.at[j]) * scale * to_float(weights.at[j]));
  }
  return result;
}

/// kPer: packs of a thread.
template <class T, int kPack, int kPer, Residual kResidual>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_kernel(OpSite site, NormRows a) {
  __shared__ float scratch[kMaxThreads / kWarpSize];
  let_next_start();
  const int64_t row = blockIdx.x;
  using Values = Pack<T, kPack>;
  Values weights[kPer], values[kPer];
  const auto index = [](int p) { return static_cast<int>(threadIdx.x + p * blockDim.x); };
#pragma unroll
  for (int p = 0; p < kPer; ++p) {
    if (index(p) < a.packs) weights[p] = static_cast<const Values*>(a.weight)[index(p)];
  }
  wait_for_inputs(site);
  float sum = 0.0F;
#pragma unroll
  for (int p = 0; p < kPer; ++p) {
    if (index(p) < a.packs) values[p] = load_row<T, kPack, kResidual>(a, row, index(p), sum);
  }
  if constexpr (kResidual != Residual::kNone) {
#pragma unroll
    for (int p = 0; p < kPer; ++p) {
      if (index(p) < a.packs) a.residual.pack<T, kPack>(row, index(p)) = values[p];
    }
  }
  const float scale = 1.0F / sqrtf(sum_of_row(sum, scratch) / static_cast<float>(a.dim) + a.eps);
#pragma unroll
  for (int p = 0; p < kPer; ++p) {
    if (index(p) < a.packs) {
      a.out.pack<T, kPack>(row, index(p)) = normed<T, kPack>(values[p], scale, weights[p]);
    }
  }
}

/// Rows too wide for registers, or askew: read twice.
template <class T, Residual kResidual>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_plain_kernel(OpSite site, NormRows a) {
  __shared__ float scratch[kMaxThreads / kWarpSize];
  let_next_start();
  const int64_t row = blockIdx.x;
  wait_for_inputs(site);
  float sum = 0.0F;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    const auto value = load_row<T, 1, kResidual>(a, row, i, sum);
    if constexpr (kResidual != Residual::kNone) a.residual.pack<T, 1>(row, i) = value;
  }
  const float scale = 1.0F / sqrtf(sum_of_row(sum, scratch) / static_cast<float>(a.dim) + a.eps);
  const RowView& from = kResidual == Residual::kNone ? a.x : a.residual;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    const auto value = from.pack<T, 1>(row, i);  // its own thread wrote it, if anyone did
    a.out.pack<T, 1>(row, i) = normed<T, 1>(value, scale, static_cast<const Pack<T, 1>*>(a.weight)[i]);
  }
}

unsigned threads_for(int64_t items) {
  const int64_t warps = ceil_div<int64_t>(items, kWarpSize);
  return static_cast<unsigned>(kWarpSize *
                               (warps < kMaxThreads / kWarpSize ? warps : kMaxThreads / kWarpSize));
}

template <Residual kResidual>
void launch_norm(const char* op, const CudaContext& context, const TensorView& out, const TensorView& x,
                 const TensorView& residual, const TensorView& weight, float eps) {
  const int64_t dim = weight.shape[0];
  if (dim > INT32_MAX) device::cuda::refuse_op(op, "rows of more than 2^31 - 1 columns");
  NormRows a{.out = rows_of(out),
             .x = rows_of(x),
             .residual = kResidual == Residual::kNone ? RowView{} : rows_of(residual),
             .weight = weight.data,
             .packs = 0,
             .dim = static_cast<int32_t>(dim),
             .eps = eps};
  visit_dtype(op, x.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackOf16Bytes<T>;
    const bool packed = has_packed_rows<T>(x, dim) && has_packed_rows<T>(out, dim) &&
                        has_packed_rows<T>(weight, dim) &&
                        (kResidual == Residual::kNone || has_packed_rows<T>(residual, dim));
    a.packs = static_cast<int32_t>(dim / kPack);
    const dim3 grid(grid_x(count_rows(x)));
    const auto shape = [&](int64_t per) {
      return LaunchShape{.grid = grid, .block = dim3(threads_for(ceil_div<int64_t>(a.packs, per)))};
    };
    if (!packed || a.packs > 4 * kMaxThreads) {
      launch<&rms_norm_plain_kernel<T, kResidual>>(context, {.grid = grid, .block = dim3(threads_for(dim))},
                                                   context.site, a);
    } else if (a.packs <= kMaxThreads) {
      launch<&rms_norm_kernel<T, kPack, 1, kResidual>>(context, shape(1), context.site, a);
    } else if (a.packs <= 2 * kMaxThreads) {
      launch<&rms_norm_kernel<T, kPack, 2, kResidual>>(context, shape(2), context.site, a);
    } else {
      launch<&rms_norm_kernel<T, kPack, 4, kResidual>>(context, shape(4), context.site, a);
    }
  });
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void rms_norm(const RmsNormArgs& args, ExecContext& context) {
  const auto run = args.residual.defined() ? &launch_norm<Residual::kKeep> : &launch_norm<Residual::kNone>;
  run("rms_norm", cuda_context(context), args.out, args.x, args.residual, args.weight, args.eps);
}

void add_rms_norm(const AddRmsNormArgs& args, ExecContext& context) {
  launch_norm<Residual::kAdd>("add_rms_norm", cuda_context(context), args.out, args.x, args.residual,
                              args.weight, args.eps);
}

}  // namespace weft::ops::cuda
