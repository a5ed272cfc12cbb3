#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"

/// Places of copies without atomics, so that copies of an expert stand in order of row.
namespace weft::kernels {

/// *num_rows, if it is given and sane.
__device__ inline int64_t existing_rows(const int32_t* num_rows, int64_t rows) {
  if (num_rows == nullptr) return rows;
  const int64_t n = *num_rows;
  return n < 0 ? 0 : n > rows ? rows : n;
}

/// ids of rows, of which the first *num_rows exist.
struct CopyIds {
  const int32_t* ids;       // [rows, top_k]
  const int32_t* num_rows;  // device [1], or null: all
  int64_t rows, top_k, stride;

  __device__ int64_t existing() const { return existing_rows(num_rows, rows); }
  __device__ int32_t at(int64_t copy) const { return ids[copy / top_k * stride + copy % top_k]; }
};

/// Calls place(copy, n) by the thread of the n-th copy of `id`, and other(copy) by those of all other copies.
/// Returns how many there are, the same in all threads. scratch: shared, one a warp.
template <int kThreads, class Place, class Other>
__device__ int32_t place_copies(const CopyIds& ids, int64_t num_rows, int32_t id, int32_t* scratch,
                                const Place& place, const Other& other) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int32_t placed = 0;
  for (int64_t first = 0; first < num_rows * ids.top_k; first += kThreads) {
    const int64_t copy = first + threadIdx.x;
    const bool exists = copy < num_rows * ids.top_k;
    const bool mine = exists && ids.at(copy) == id;
    const unsigned ballot = __ballot_sync(kAllLanes, mine);
    __syncthreads();
    if (lane == 0) scratch[warp] = __popc(ballot);
    __syncthreads();
    int32_t before = placed + __popc(ballot & ((1U << lane) - 1U));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += scratch[w];
      placed += scratch[w];
    }
    if (mine) {
      place(copy, before);
    } else if (exists) {
      other(copy);
    }
  }
  return placed;
}

}  // namespace weft::kernels
