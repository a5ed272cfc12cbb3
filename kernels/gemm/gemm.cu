// gemm, batched_gemm and grouped_gemm.
//
// few rows (16-bit, aligned and dense): few_rows.cuh, for all but groups.
// few rows otherwise (16-bit): a block has 16 rows and 16 columns, each of its 8 warps one segment of k;
//   fragments come straight from memory, nothing is staged.
// many rows (16-bit): bound by the tensor cores. Tiles of a and w go through shared memory in four stages.
// f32: fused multiply-adds, since the tensor cores would round to 11 bits.
#include "device/cuda/cublas_lt.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "kernels/gemm/few_rows.cuh"
#include "kernels/gemm/grouped.h"
#include "kernels/gemm/mma.cuh"
#include "kernels/gemm/product.cuh"
#include "kernels/gemm/transposed.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kFewRows = 16;
constexpr int kFewColumns = 16;

template <class T, class Out>
__global__ void __launch_bounds__(kSegments * 32)
    small_tile_kernel(OpSite site, ProductTexts texts, Products p) {
  __shared__ float partial[kSegments][kFewRows][kFewColumns + 1];
  let_next_start();
  wait_for_inputs(site);
  const BlockRows rows = block_rows<kFewRows>(site, texts, p);
  if (rows.count == 0) return;
  const int segment = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int64_t column = int64_t{blockIdx.x} * kFewColumns;
  const T* a_upper = g < rows.count ? a_row<T>(p, rows, g) : nullptr;
  const T* a_lower = g + 8 < rows.count ? a_row<T>(p, rows, g + 8) : nullptr;
  const T* w_left = column + g < p.n ? w_row<T>(p, rows, column + g) : nullptr;
  const T* w_right = column + 8 + g < p.n ? w_row<T>(p, rows, column + 8 + g) : nullptr;
  const int64_t begin_k = segment * p.segment;
  const int64_t end_k = begin_k + p.segment < p.k ? begin_k + p.segment : p.k;
  float sums[2][4] = {};
#pragma unroll 4
  for (int64_t k = begin_k; k < end_k; k += kStepK) {
    const uint4 upper = load_eight(a_upper, k + 8 * t, end_k, 1, p.packed);
    const uint4 lower = load_eight(a_lower, k + 8 * t, end_k, 1, p.packed);
    const uint4 left = load_eight(w_left, k + 8 * t, end_k, p.w_k_stride, p.packed);
    const uint4 right = load_eight(w_right, k + 8 * t, end_k, p.w_k_stride, p.packed);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[4];
      uint32_t b[2];
      as_a(a, upper, lower, half);
      as_b(b, left, half);
      mma_16x8x16<T>(sums[0], a, b);
      as_b(b, right, half);
      mma_16x8x16<T>(sums[1], a, b);
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    partial[segment][g][8 * j + 2 * t] = sums[j][0];
    partial[segment][g][8 * j + 2 * t + 1] = sums[j][1];
    partial[segment][g + 8][8 * j + 2 * t] = sums[j][2];
    partial[segment][g + 8][8 * j + 2 * t + 1] = sums[j][3];
  }
  __syncthreads();
  if (threadIdx.x >= kFewRows * kFewColumns / 2) return;
  const int row = static_cast<int>(threadIdx.x) / (kFewColumns / 2);
  const int pair = 2 * (static_cast<int>(threadIdx.x) % (kFewColumns / 2));
  float first = 0.0F;
  float second = 0.0F;
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    first += partial[s][row][pair];
    second += partial[s][row][pair + 1];
  }
  store_two<T, Out>(p, rows, row, column + pair, first, second);
}

/// A tile of kWarpsM * kTilesM * 16 rows and kWarpsN * kTilesN * 8 columns; each warp has kTilesM by kTilesN
/// of the tensor core's tiles.
template <int kWarpsM_, int kWarpsN_, int kTilesM_, int kTilesN_>
struct TileShape {
  static constexpr int kWarpsM = kWarpsM_;
  static constexpr int kWarpsN = kWarpsN_;
  static constexpr int kTilesM = kTilesM_;
  static constexpr int kTilesN = kTilesN_;
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  static constexpr int kRows = kWarpsM * kTilesM * 16;
  static constexpr int kColumns = kWarpsN * kTilesN * 8;
  static constexpr int kStages = 4;
  // A row of a tile is 64 bytes, four accesses; eight of them side by side meet every bank once.
  static constexpr int kAccesses = (kRows + kColumns) * 4;
  static constexpr size_t kSharedBytes = size_t{kStages} * kAccesses * 16;
};
using LargeTile = TileShape<2, 4, 4, 4>;  // 128 x 128
using SmallTile = TileShape<2, 2, 2, 4>;  // 64 x 64: more blocks where there are few

template <class T, class Out, class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    many_rows_kernel(OpSite site, ProductTexts texts, Products p) {
  let_next_start();
  wait_for_inputs(site);
  const BlockRows rows = block_rows<Shape::kRows>(site, texts, p);
  if (rows.count == 0) return;
  uint4* tiles = dynamic_shared<uint4>();  // [stage][rows of a, then of w][4]
  const int64_t column = int64_t{blockIdx.x} * Shape::kColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = warp / Shape::kWarpsN * Shape::kTilesM * 16;
  const int warp_column = warp % Shape::kWarpsN * Shape::kTilesN * 8;

  const auto fetch = [&](int64_t step) {
    uint4* stage = tiles + step % Shape::kStages * Shape::kAccesses;
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kAccesses; i += Shape::kThreads) {
      const int row = i / 4;
      const int64_t k = step * kStepK + i % 4 * 8;
      const bool of_a = row < Shape::kRows;
      const int64_t index = of_a ? row : column + row - Shape::kRows;
      const bool exists = of_a ? index < rows.count : index < p.n;
      const T* from = !exists ? nullptr : of_a ? a_row<T>(p, rows, index) : w_row<T>(p, rows, index);
      if (p.packed) {
        const bool inside = exists && k < p.k;
        copy_async(stage + i, inside ? from + k : static_cast<const T*>(p.a), inside);
      } else {
        stage[i] = load_eight(from, k, p.k, of_a ? 1 : p.w_k_stride, false);
      }
    }
  };

  const int64_t steps = ceil_div<int64_t>(p.k, kStepK);
  const int64_t steps_per_segment = p.segment / kStepK;
  float totals[Shape::kTilesM][Shape::kTilesN][4] = {};
  float sums[Shape::kTilesM][Shape::kTilesN][4] = {};
  for (int64_t step = 0; step < Shape::kStages - 1; ++step) {
    if (step < steps) fetch(step);
    commit_copies();
  }
  for (int64_t step = 0; step < steps; ++step) {
    wait_for_copies<Shape::kStages - 2>();
    __syncthreads();  // this step has arrived, and nobody reads the stage that is filled next
    if (step + Shape::kStages - 1 < steps) fetch(step + Shape::kStages - 1);
    commit_copies();
    const uint4* stage = tiles + step % Shape::kStages * Shape::kAccesses;
    uint4 w[Shape::kTilesN];
#pragma unroll
    for (int j = 0; j < Shape::kTilesN; ++j) {
      w[j] = stage[(Shape::kRows + warp_column + 8 * j + lane / 4) * 4 + lane % 4];
    }
#pragma unroll
    for (int i = 0; i < Shape::kTilesM; ++i) {
      const uint4 upper = stage[(warp_row + 16 * i + lane / 4) * 4 + lane % 4];
      const uint4 lower = stage[(warp_row + 16 * i + 8 + lane / 4) * 4 + lane % 4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t a[4];
        as_a(a, upper, lower, half);
#pragma unroll
        for (int j = 0; j < Shape::kTilesN; ++j) {
          uint32_t b[2];
          as_b(b, w[j], half);
          mma_16x8x16<T>(sums[i][j], a, b);
        }
      }
    }
    if ((step + 1) % steps_per_segment == 0 || step + 1 == steps) {
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
        for (int j = 0; j < Shape::kTilesN; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            totals[i][j][e] += sums[i][j][e];
            sums[i][j][e] = 0.0F;
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kTilesN; ++j) {
      const int64_t row = warp_row + 16 * i + lane / 4;
      const int64_t at = column + warp_column + 8 * j + 2 * (lane % 4);
      store_two<T, Out>(p, rows, row, at, totals[i][j][0], totals[i][j][1]);
      store_two<T, Out>(p, rows, row + 8, at, totals[i][j][2], totals[i][j][3]);
    }
  }
}

constexpr int kF32Tile = 64;
constexpr int kF32StepK = 16;
constexpr int kF32Threads = 256;

// A thread has 4 by 4 elements, each summed along k from its first column to its last.
__global__ void __launch_bounds__(kF32Threads) f32_kernel(OpSite site, ProductTexts texts, Products p) {
  __shared__ float a_tile[kF32StepK][kF32Tile + 4];
  __shared__ float w_tile[kF32StepK][kF32Tile + 4];
  let_next_start();
  wait_for_inputs(site);
  const BlockRows rows = block_rows<kF32Tile>(site, texts, p);
  if (rows.count == 0) return;
  const int64_t column = int64_t{blockIdx.x} * kF32Tile;
  const int row_at = static_cast<int>(threadIdx.x) / 16 * 4;
  const int column_at = static_cast<int>(threadIdx.x) % 16 * 4;
  float sums[4][4] = {};
  for (int64_t k = 0; k < p.k; k += kF32StepK) {
    for (int i = static_cast<int>(threadIdx.x); i < kF32Tile * kF32StepK; i += kF32Threads) {
      const int row = i / kF32StepK;
      const int step = i % kF32StepK;
      const bool inside = k + step < p.k;
      a_tile[step][row] = inside && row < rows.count ? a_row<float>(p, rows, row)[k + step] : 0.0F;
      w_tile[step][row] = inside && column + row < p.n
                              ? w_row<float>(p, rows, column + row)[(k + step) * p.w_k_stride]
                              : 0.0F;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kF32StepK; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[i][j] = fmaf(a_tile[step][row_at + i], w_tile[step][column_at + j], sums[i][j]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    store_two<float, float>(p, rows, row_at + i, column + column_at, sums[i][0], sums[i][1]);
    store_two<float, float>(p, rows, row_at + i, column + column_at + 2, sums[i][2], sums[i][3]);
  }
}

/// n: columns of out.
FewRows few_rows(const Products& p, int64_t n) {
  return {.out = p.out,
          .a = p.a,
          .w = p.w,
          .bias = p.bias,
          .out_stride = p.out_stride,
          .out_product_stride = p.out_product_stride,
          .a_stride = p.a_stride,
          .a_product_stride = p.a_product_stride,
          .w_stride = p.w_stride,
          .w_product_stride = p.w_product_stride,
          .n = n,
          .k = p.k,
          .m = static_cast<int32_t>(p.m)};
}

// Blocks: x the tile of columns, y that of rows, z the product.
LaunchShape tile_shape(const Products& p, int64_t rows, int64_t columns, int64_t threads, size_t shared) {
  const int64_t tiles = p.rows == Rows::kContiguous ? p.m / rows + p.groups : ceil_div(p.m, rows);
  const int64_t products = p.rows == Rows::kContiguous ? 1 : p.groups;
  if (tiles > 65535 || products > 65535) {
    device::cuda::refuse_op("gemm", "more than 65535 tiles of rows, or products; cut the rows");
  }
  return {.grid = dim3(grid_x(ceil_div(p.n, columns)), static_cast<unsigned>(tiles),
                       static_cast<unsigned>(products)),
          .block = dim3(static_cast<unsigned>(threads)),
          .shared_bytes = shared};
}

// The few rows that launch_few_rows() serves.
bool has_few_rows(const Products& p) {
  return p.rows == Rows::kPlain && p.packed && p.m <= max_few_rows(p.n * p.groups, p.k);
}

template <class T, class Out>
void launch_16bit(const CudaContext& context, const Products& p) {
  if (has_few_rows(p)) {
    launch_few_rows<T, Out, false>(context, few_rows(p, p.n), p.groups);
    return;
  }
  if (is_transposed(p)) {
    launch_transposed<T, Out>(context, p);
    return;
  }
  // Rows of a group are known to the device alone: the mean says how many to expect.
  const int64_t rows = p.rows == Rows::kContiguous ? p.m / (p.groups > 0 ? p.groups : 1) : p.m;
  if (rows <= 2 * kFewRows) {
    launch<&small_tile_kernel<T, Out>>(context, tile_shape(p, kFewRows, kFewColumns, kSegments * 32, 0),
                                       context.site, kProductTexts, p);
    return;
  }
  const int64_t large = ceil_div<int64_t>(rows, LargeTile::kRows) *
                        ceil_div<int64_t>(p.n, LargeTile::kColumns) * (p.groups > 0 ? p.groups : 1);
  if (large >= context.num_sms && rows > SmallTile::kRows) {
    launch<&many_rows_kernel<T, Out, LargeTile>>(
        context,
        tile_shape(p, LargeTile::kRows, LargeTile::kColumns, LargeTile::kThreads, LargeTile::kSharedBytes),
        context.site, kProductTexts, p);
  } else {
    launch<&many_rows_kernel<T, Out, SmallTile>>(
        context,
        tile_shape(p, SmallTile::kRows, SmallTile::kColumns, SmallTile::kThreads, SmallTile::kSharedBytes),
        context.site, kProductTexts, p);
  }
}

void launch_products(const CudaContext& context, const Products& p, DType dtype, DType out_dtype) {
  if (dtype == DType::kF32) {
    launch<&f32_kernel>(context, tile_shape(p, kF32Tile, kF32Tile, kF32Threads, 0), context.site,
                        kProductTexts, p);
  } else if (dtype == DType::kBF16) {
    out_dtype == DType::kF32 ? launch_16bit<bf16, float>(context, p) : launch_16bit<bf16, bf16>(context, p);
  } else {
    out_dtype == DType::kF32 ? launch_16bit<f16, float>(context, p) : launch_16bit<f16, f16>(context, p);
  }
}

bool aligned(const TensorView& view, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(bytes) != 0) return false;
  for (int d = 0; d + 1 < view.rank; ++d) {
    const int64_t stride = view.stride[d] * static_cast<int64_t>(dtype_size(view.dtype));
    if (view.shape[d] > 1 && stride % bytes != 0) return false;
  }
  return true;
}

// What depends on operands in the same way for every op.
Products products_of(const TensorView& out, const TensorView& a, const TensorView& w, int64_t n, int64_t k,
                     int64_t w_k_stride) {
  Products p{};
  p.out = out.data;
  p.a = a.data;
  p.w = w.data;
  p.n = n;
  p.k = k;
  p.w_k_stride = w_k_stride;
  p.segment = segment_length(k > 0 ? k : 1);
  p.packed = k % 8 == 0 && w_k_stride == 1 && aligned(a, 16) && aligned(w, 16);
  p.out_packed = aligned(out, 2 * static_cast<int64_t>(dtype_size(out.dtype)));
  return p;
}

// The one product of gemm.
Products product_of(const TensorView& out, const TensorView& a, const TensorView& w) {
  Products p = products_of(out, a, w, w.shape[0], w.shape[1], 1);
  p.out_stride = out.stride[0];
  p.a_stride = a.stride[0];
  p.w_stride = w.stride[0];
  p.m = a.shape[0];
  p.groups = 1;
  p.rows = Rows::kPlain;
  return p;
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void gemm(const GemmArgs& args, ExecContext& context) {
  Products p = product_of(args.out, args.a, args.w);
  p.bias = args.bias.defined() ? args.bias.data : nullptr;
  const CudaContext& cuda = cuda_context(context);
  if (!has_few_rows(p) && cuda.cublas_lt != nullptr &&
      cuda.cublas_lt->multiply({.out = p.out,
                                .a = p.a,
                                .w = p.w,
                                .bias = p.bias,
                                .out_stride = p.out_stride,
                                .a_stride = p.a_stride,
                                .w_stride = p.w_stride,
                                .m = p.m,
                                .n = p.n,
                                .k = p.k,
                                .dtype = args.a.dtype,
                                .out_dtype = args.out.dtype},
                               cuda)) {
    return;
  }
  launch_products(cuda, p, args.a.dtype, args.out.dtype);
}

void gemm_silu_mul(const GemmSiluMulArgs& args, ExecContext& context) {
  const Products p = product_of(args.out, args.a, args.w);
  if (args.a.dtype == DType::kF32 || !has_few_rows(p)) {
    gemm({.out = args.gate_up, .a = args.a, .w = args.w, .bias = {}}, context);
    silu_mul({.out = args.out, .gate_up = args.gate_up}, context);
    return;
  }
  const FewRows few = few_rows(p, args.out.shape[1]);
  if (args.a.dtype == DType::kBF16) {
    launch_few_rows<bf16, bf16, true>(cuda_context(context), few, 1);
  } else {
    launch_few_rows<f16, f16, true>(cuda_context(context), few, 1);
  }
}

void batched_gemm(const BatchedGemmArgs& args, ExecContext& context) {
  Products p = products_of(args.out, args.a, args.w, args.w.shape[1], args.w.shape[2], args.w.stride[2]);
  p.out_stride = args.out.stride[0];
  p.out_product_stride = args.out.stride[1];
  p.a_stride = args.a.stride[0];
  p.a_product_stride = args.a.stride[1];
  p.w_stride = args.w.stride[1];
  p.w_product_stride = args.w.stride[0];
  p.m = args.a.shape[0];
  p.groups = args.w.shape[0];
  p.rows = Rows::kPlain;
  launch_products(cuda_context(context), p, args.a.dtype, args.out.dtype);
}

}  // namespace weft::ops::cuda

namespace weft::kernels {

void native_grouped_gemm(const ops::GroupedGemmArgs& args, const CudaContext& context) {
  const bool masked = args.counts != nullptr;
  const int row_dim = masked ? 1 : 0;
  Products p = products_of(args.out, args.a, args.w, args.w.shape[1], args.w.shape[2], 1);
  p.out_stride = args.out.stride[row_dim];
  p.out_product_stride = masked ? args.out.stride[0] : 0;
  p.a_stride = args.a.stride[row_dim];
  p.a_product_stride = masked ? args.a.stride[0] : 0;
  p.w_stride = args.w.stride[1];
  p.w_product_stride = args.w.stride[0];
  p.m = args.a.shape[row_dim];
  p.offsets = args.offsets;
  p.counts = args.counts;
  p.alignment = args.alignment;
  p.groups = args.w.shape[0];
  p.rows = masked ? Rows::kMasked : Rows::kContiguous;
  launch_products(context, p, args.a.dtype, args.out.dtype);
}

}  // namespace weft::kernels
