#pragma once

#include "kernels/gemm/mma.cuh"
#include "kernels/gemm/product.cuh"

/// Products whose w is dense along n: MLA reads W_UK so. k is short there, so a block has 64 columns and all
/// of k: each of its 8 warps one segment. A lane loads 8 neighbours of a row of w and pairs them with those
/// of the next row; which of the tensor core's columns an element stands in does not matter, as long as the
/// result is read back from there.
namespace weft::kernels {

constexpr int kTransposedColumns = 64;
constexpr int kTransposedStep = 16;

/// Columns of k of a warp.
inline int64_t transposed_segment(int64_t k) {
  return ceil_div<int64_t>(ceil_div<int64_t>(k, kSegments), kTransposedStep) * kTransposedStep;
}

/// Rows of w at k, k + 1, k + 8, k + 9 for k = 2t of a step, each from column 8g on.
struct TransposedFragment {
  uint4 at[4];

  /// The tensor core's b for the elements `j` of all lanes.
  __device__ void as_b(uint32_t (&b)[2], int j) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4& first = at[2 * half];
      const uint4& second = at[2 * half + 1];
      const uint32_t x = j < 2 ? first.x : j < 4 ? first.y : j < 6 ? first.z : first.w;
      const uint32_t y = j < 2 ? second.x : j < 4 ? second.y : j < 6 ? second.z : second.w;
      b[half] = __byte_perm(x, y, j % 2 == 0 ? 0x5410 : 0x7632);
    }
  }
};

template <class T, class Out, int kRowTiles>
__global__ void __launch_bounds__(kSegments * 32)
    transposed_kernel(OpSite site, Products p, int64_t segment) {
  // Column 8i + j of a row stands at 8j + i, so that a lane's sums are neighbours; lanes of four rows then
  // meet every bank once.
  __shared__ float2 partial[kSegments][16][kTransposedColumns / 2 + 4];
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int64_t column = int64_t{blockIdx.x} * kTransposedColumns;
  const int64_t begin_k = warp * segment;
  const int64_t end_k = begin_k + segment < p.k ? begin_k + segment : p.k;
  const bool has_columns = column + 8 * g < p.n;
  const T* const w = static_cast<const T*>(p.w) + int64_t{blockIdx.z} * p.w_product_stride + column + 8 * g;
  const auto load_w = [&](int64_t k) {
    TransposedFragment fragment{};
    if (has_columns && k < end_k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t row = k + 2 * t + (i >= 2 ? 8 : 0) + i % 2;
        fragment.at[i] = *reinterpret_cast<const uint4*>(w + row * p.w_k_stride);
      }
    }
    return fragment;
  };
  TransposedFragment now = load_w(begin_k);  // of a weight, so it need not wait
  wait_for_inputs(site);

  const BlockRows rows{blockIdx.z, int64_t{blockIdx.y} * 16 * kRowTiles,
                       p.m - int64_t{blockIdx.y} * 16 * kRowTiles};
  float sums[kRowTiles][8][4] = {};
  for (int64_t k = begin_k; k < end_k; k += kTransposedStep) {
    const TransposedFragment next = load_w(k + kTransposedStep);
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * r + g + (i % 2 == 0 ? 0 : 8);
        a[r][i] =
            row < rows.count
                ? *reinterpret_cast<const uint32_t*>(a_row<T>(p, rows, row) + k + 2 * t + (i >= 2 ? 8 : 0))
                : 0;
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      uint32_t b[2];
      now.as_b(b, j);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) mma_16x8x16<T>(sums[r][j], a[r], b);
    }
    now = next;
  }
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    if (16 * r >= rows.count) break;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      partial[warp][g][4 * j + t] = {sums[r][j][0], sums[r][j][1]};
      partial[warp][g + 8][4 * j + t] = {sums[r][j][2], sums[r][j][3]};
    }
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x) / (kTransposedColumns / 4);
    const int first = static_cast<int>(threadIdx.x) % (kTransposedColumns / 4) * 4;
    float total[4] = {};
#pragma unroll
    for (int s = 0; s < kSegments; ++s) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2& two = partial[s][row][4 * ((first + e) % 8) + first / 16];
        total[e] += first / 8 % 2 == 0 ? two.x : two.y;
      }
    }
    store_two<T, Out>(p, rows, 16 * r + row, column + first, total[0], total[1]);
    store_two<T, Out>(p, rows, 16 * r + row, column + first + 2, total[2], total[3]);
  }
}

/// True if transposed_kernel can read p: w dense along n, in whole 16 bytes; k in whole steps.
inline bool is_transposed(const Products& p) {
  const auto is_multiple = [](const void* data, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0;
  };
  return p.rows == Rows::kPlain && p.w_stride == 1 && p.k % kTransposedStep == 0 && p.n % 8 == 0 &&
         p.w_k_stride % 8 == 0 && p.w_product_stride % 8 == 0 && is_multiple(p.w, 16) &&
         p.a_stride % 2 == 0 && p.a_product_stride % 2 == 0 && is_multiple(p.a, 4);
}

template <class T, class Out>
void launch_transposed(const CudaContext& context, const Products& p) {
  const int64_t row_tiles = p.m <= 16 ? 1 : 4;
  const int64_t row_blocks = ceil_div<int64_t>(p.m, 16 * row_tiles);
  if (row_blocks > 65535 || p.groups > 65535) {
    device::cuda::refuse_op("batched_gemm", "more than 65535 tiles of rows, or products; cut the rows");
  }
  const LaunchShape shape{.grid = dim3(grid_x(ceil_div<int64_t>(p.n, kTransposedColumns)),
                                       static_cast<unsigned>(row_blocks), static_cast<unsigned>(p.groups)),
                          .block = dim3(kSegments * 32)};
  if (row_tiles == 1) {
    launch<&transposed_kernel<T, Out, 1>>(context, shape, context.site, p, transposed_segment(p.k));
  } else {
    launch<&transposed_kernel<T, Out, 4>>(context, shape, context.site, p, transposed_segment(p.k));
  }
}

}  // namespace weft::kernels
