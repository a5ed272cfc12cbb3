#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"

/// What all GEMM kernels share: which product and which rows a block has, where operands lie, and the order
/// in which a sum over k is made.
///
/// k is cut into kSegments; each is summed from 0 in steps of 32, and the segments' sums are added in order.
/// So segments may be computed at the same time (few rows) or one after another (many rows), with the same
/// bits.
namespace weft::kernels {

constexpr int kSegments = 8;
constexpr int kStepK = 32;

/// Columns of k in a segment: a multiple of kStepK. The last segments may be short or empty.
inline int64_t segment_length(int64_t k) {
  return ceil_div<int64_t>(ceil_div<int64_t>(k, kSegments), kStepK) * kStepK;
}

enum class Rows : uint8_t {
  kPlain,       // blockIdx.z counts products of m rows each
  kContiguous,  // groups of rows, one behind the other, between offsets
  kMasked,      // blockIdx.z counts groups, of counts[z] rows
};

/// One launch: many products of one n and k. Strides in elements.
struct Products {
  void* out;
  const void* a;
  const void* w;
  const void* bias;  // null: none
  int64_t out_stride, out_product_stride;
  int64_t a_stride, a_product_stride;
  int64_t w_stride, w_k_stride, w_product_stride;  // of n, of k, of a product
  int64_t m, n, k;                                 // m: rows of a product; contiguous: of all
  int64_t segment;
  const int32_t* offsets;  // [groups + 1]
  int32_t alignment;       // of the groups' first rows
  const int32_t* counts;   // [groups]
  int64_t groups;
  Rows rows;
  bool packed;      // rows of a and w are 16-byte aligned, dense, and k is a multiple of 16 bytes
  bool out_packed;  // out may be stored two elements at a time
};

struct ProductTexts {
  const char* bad_offsets;
  const char* bad_count;
};
inline constexpr char kBadOffsets[] =
    "grouped_gemm: group {} owns rows [{}, {}), which are not inside a = [{}, ..]";
inline constexpr char kBadGroupCount[] = "grouped_gemm: counts[{}]={} does not fit a = [.., {}, ..]";
inline constexpr ProductTexts kProductTexts{kBadOffsets, kBadGroupCount};

/// The rows of one block: up to kRows rows of product `product`, from row `first` of a and out on.
struct BlockRows {
  int64_t product = 0;
  int64_t first = 0;
  int64_t count = 0;  // 0: nothing to do
};

/// The rows of tile `tile` of contiguous groups, each of which starts a tile of its own. A warp looks at 32
/// groups at a time; every warp does so, and gets the same.
template <int kRows>
__device__ BlockRows contiguous_rows(const OpSite& site, const ProductTexts& texts, const Products& p,
                                     int64_t tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int64_t seen = 0;  // tiles of the groups before
  for (int64_t first_group = 0; first_group < p.groups; first_group += kWarpSize) {
    const int64_t g = first_group + lane;
    const int64_t begin_row = g < p.groups ? ceil_div(p.offsets[g], p.alignment) * p.alignment : 0;
    const int64_t end_row = g < p.groups ? p.offsets[g + 1] : 0;
    const bool bad = begin_row < 0 || begin_row > end_row || end_row > p.m;
    if (bad && threadIdx.x < kWarpSize) fail(site, texts.bad_offsets, g, begin_row, end_row, p.m);
    if (__ballot_sync(kAllLanes, bad) != 0) return {};
    const int64_t tiles = ceil_div<int64_t>(end_row - begin_row, kRows);
    int64_t until = tiles;  // of the lanes up to this one
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int64_t before = __shfl_up_sync(kAllLanes, until, step);
      if (lane >= step) until += before;
    }
    const int64_t first_tile = seen + until - tiles;
    const unsigned owner = __ballot_sync(kAllLanes, tile >= first_tile && tile < first_tile + tiles);
    if (owner != 0) {
      const int from = __ffs(static_cast<int>(owner)) - 1;
      const int64_t first = __shfl_sync(kAllLanes, begin_row + (tile - first_tile) * kRows, from);
      const int64_t end = __shfl_sync(kAllLanes, end_row, from);
      return {first_group + from, first, end - first < kRows ? end - first : kRows};
    }
    seen += __shfl_sync(kAllLanes, until, kWarpSize - 1);
  }
  return {};
}

/// Finds the block's rows, in tiles of kRows; blockIdx.y counts tiles. Same for all threads.
template <int kRows>
__device__ BlockRows block_rows(const OpSite& site, const ProductTexts& texts, const Products& p) {
  const int64_t tile = blockIdx.y;
  if (p.rows == Rows::kContiguous) return contiguous_rows<kRows>(site, texts, p, tile);
  int64_t m = p.m;
  if (p.rows == Rows::kMasked) {
    m = p.counts[blockIdx.z];
    if (m < 0 || m > p.m) {
      if (threadIdx.x == 0) fail(site, texts.bad_count, blockIdx.z, m, p.m);
      return {};
    }
  }
  const int64_t first = tile * kRows;
  if (first >= m) return {};
  return {static_cast<int64_t>(blockIdx.z), first, m - first < kRows ? m - first : kRows};
}

template <class T>
__device__ const T* a_row(const Products& p, const BlockRows& rows, int64_t row) {
  const int64_t slab = p.rows == Rows::kContiguous ? 0 : rows.product * p.a_product_stride;
  return static_cast<const T*>(p.a) + slab + (rows.first + row) * p.a_stride;
}
template <class T>
__device__ const T* w_row(const Products& p, const BlockRows& rows, int64_t column) {
  return static_cast<const T*>(p.w) + rows.product * p.w_product_stride + column * p.w_stride;
}
template <class Out>
__device__ Out* out_row(const Products& p, const BlockRows& rows, int64_t row) {
  const int64_t slab = p.rows == Rows::kContiguous ? 0 : rows.product * p.out_product_stride;
  return static_cast<Out*>(p.out) + slab + (rows.first + row) * p.out_stride;
}

/// Eight 16-bit elements from column `k` of a row on; zeros past `end`, and where there is no row (null).
template <class T>
__device__ uint4 load_eight(const T* row, int64_t k, int64_t end, int64_t k_stride, bool packed) {
  static_assert(sizeof(T) == 2);
  if (row == nullptr || k >= end) return {};
  if (packed && k + 8 <= end) return *reinterpret_cast<const uint4*>(row + k);
  Pack<T, 8> eight;
#pragma unroll
  for (int j = 0; j < 8; ++j) eight.at[j] = k + j < end ? row[(k + j) * k_stride] : T{};
  return reinterpret_cast<const uint4&>(eight);
}

/// out[row][column, column + 1] = the sums plus bias, as far as the columns exist.
template <class T, class Out>
__device__ void store_two(const Products& p, const BlockRows& rows, int64_t row, int64_t column, float first,
                          float second) {
  if (row >= rows.count || column >= p.n) return;
  const bool both = column + 1 < p.n;
  if (p.bias != nullptr) {
    const T* bias = static_cast<const T*>(p.bias);
    first += to_float(bias[column]);
    if (both) second += to_float(bias[column + 1]);
  }
  Out* out = out_row<Out>(p, rows, row) + column;
  if (p.out_packed && both) {
    *reinterpret_cast<Pack<Out, 2>*>(out) = {from_float<Out>(first), from_float<Out>(second)};
    return;
  }
  out[0] = from_float<Out>(first);
  if (both) out[1] = from_float<Out>(second);
}

}  // namespace weft::kernels
