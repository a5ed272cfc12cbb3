#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/attention/fragments.cuh"
#include "kernels/common/cluster.cuh"

/// The end of a decode kernel: parts of a softmax over different positions become one.
namespace weft::kernels {

/// A row's scores: the highest, in units of log 2, and the sum of 2^(score - top).
struct Scores {
  float top;
  float sum;
};
/// Four columns of a row, not yet divided by scores.sum.
struct Merged {
  Scores scores;
  float4 x;
};

/// Merges parts 0 .. n - 1 (n <= kMax), in order; scores(i) and columns(i) are those of part i.
template <int kMax, class ScoresOf, class ColumnsOf>
__device__ inline Merged merge(int n, const ScoresOf& scores, const ColumnsOf& columns) {
  float top = -INFINITY;
#pragma unroll
  for (int i = 0; i < kMax; ++i)
    if (i < n) top = fmaxf(top, scores(i).top);
  const float base = top == -INFINITY ? 0.0F : top;
  Merged merged{{top, 0.0F}, {0.0F, 0.0F, 0.0F, 0.0F}};
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    if (i >= n) continue;
    const Scores of = scores(i);
    const float4 y = columns(i);
    const float c = exp2_fast(of.top - base);
    merged.scores.sum = fmaf(c, of.sum, merged.scores.sum);
    float4& x = merged.x;
    x = float4{fmaf(c, y.x, x.x), fmaf(c, y.y, x.y), fmaf(c, y.z, x.z), fmaf(c, y.w, x.w)};
  }
  return merged;
}

/// The same of the first n blocks of the cluster. The addresses are this block's.
template <int kMax>
__device__ inline Merged merge_blocks(int n, const float4* top_and_sum, const float4* columns) {
  float4 scores_of[kMax];
  float4 columns_of[kMax];
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    if (i >= n) continue;
    scores_of[i] = load_from_block(top_and_sum, i);
    columns_of[i] = load_from_block(columns, i);
  }
  return merge<kMax>(
      n,
      [&](int i) {
        return Scores{scores_of[i].x, scores_of[i].y};
      },
      [&](int i) { return columns_of[i]; });
}

/// out[0 .. 3] = the columns, divided and rounded; out: 8-byte aligned.
template <class T>
__device__ inline void store_merged(T* out, const Merged& merged) {
  const float r = 1.0F / merged.scores.sum;
  *reinterpret_cast<uint2*>(out) =
      uint2{pack_pair<T>(merged.x.x * r, merged.x.y * r), pack_pair<T>(merged.x.z * r, merged.x.w * r)};
}

/// About the multiprocessors of a GPU. Not asked of the device, as a row's bits follow from it.
constexpr int64_t kBlocksAtOnce = 128;

/// Blocks that share a row's positions: the power of two up to kMaxCluster that makes at most `blocks` blocks
/// of num_rows.
inline int cluster_size_of(int64_t num_rows, int64_t blocks) {
  int size = kMaxCluster;
  while (size > 1 && num_rows * size > blocks) size /= 2;
  return size;
}

}  // namespace weft::kernels
