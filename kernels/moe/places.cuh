#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"

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
  int32_t rows, top_k;
  int64_t stride;

  __device__ int32_t existing() const { return static_cast<int32_t>(existing_rows(num_rows, rows)); }
  __device__ int32_t at(int32_t copy) const { return ids[place_of(copy, stride)]; }
  /// Where a tensor like ids, with rows `row_stride` apart, has a copy: without a division if it has no gaps.
  __device__ int64_t place_of(int32_t copy, int64_t row_stride) const {
    return row_stride == top_k ? copy : copy / top_k * row_stride + copy % top_k;
  }
};
/// Refuses more copies than positions can count.
inline CopyIds copy_ids(const char* op, const TensorView& ids, const int32_t* num_rows) {
  if (ids.shape[0] * ids.shape[1] > INT32_MAX) device::cuda::refuse_op(op, "more than 2^31 - 1 copies");
  return {.ids = ids.as<int32_t>(),
          .num_rows = num_rows,
          .rows = static_cast<int32_t>(ids.shape[0]),
          .top_k = static_cast<int32_t>(ids.shape[1]),
          .stride = ids.stride[0]};
}

/// The copies [begin, end) of a warp: each warp of a block has one run of them.
struct CopyRun {
  int32_t begin, end;
};
template <int kThreads>
__device__ CopyRun run_of_warp(int32_t num_copies) {
  constexpr int32_t kWarps = kThreads / kWarpSize;
  const int32_t share = ceil_div(ceil_div(num_copies, kWarps), kWarpSize) * kWarpSize;
  const auto begin = min(int64_t{threadIdx.x / kWarpSize} * share, int64_t{num_copies});
  return {static_cast<int32_t>(begin), static_cast<int32_t>(min(begin + share, int64_t{num_copies}))};
}

/// Calls each(copy, id, exists) for the copies of `run` in order, by all lanes at once: a lane beyond the end
/// is called without a copy. A few loads are under way at a time.
template <class Each>
__device__ void for_each_copy(const CopyRun& run, const CopyIds& ids, const Each& each) {
  constexpr int kAtOnce = 4;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int32_t first = run.begin; first < run.end; first += kAtOnce * kWarpSize) {
    int32_t id[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int32_t copy = first + j * kWarpSize + lane;
      id[j] = copy < run.end ? ids.at(copy) : -1;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int32_t copy = first + j * kWarpSize + lane;
      each(copy, id[j], copy < run.end);
    }
  }
}

/// How many copies of `id` stand in the runs of the warps before this one, the same in all its lanes; the
/// block's go to `total`. Calls see(copy, id) for each copy of this warp's. scratch: shared, one a warp. Has
/// one barrier, between see() and the return.
template <int kThreads, class See>
__device__ int32_t count_copies(const CopyRun& run, const CopyIds& ids, int32_t id, int32_t* scratch,
                                int32_t& total, const See& see) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int32_t count = 0;
  for_each_copy(run, ids, [&](int32_t copy, int32_t of_copy, bool exists) {
    if (exists) see(copy, of_copy);
    count += __popc(__ballot_sync(kAllLanes, exists && of_copy == id));
  });
  if (lane == 0) scratch[warp] = count;
  __syncthreads();
  const int32_t of_warp = lane < kThreads / kWarpSize ? scratch[lane] : 0;
  total = warp_reduce(of_warp, Sum{});
  return warp_reduce(lane < warp ? of_warp : 0, Sum{});
}

/// Calls place(copy, n) by the lane of the n-th copy of `id`, and other(copy, its id) by those of all other
/// copies. before: what count_copies() returned.
template <class Place, class Other>
__device__ void place_copies(const CopyRun& run, const CopyIds& ids, int32_t id, int32_t before,
                             const Place& place, const Other& other) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for_each_copy(run, ids, [&](int32_t copy, int32_t of_copy, bool exists) {
    const bool mine = exists && of_copy == id;
    const unsigned holders = __ballot_sync(kAllLanes, mine);
    if (mine) {
      place(copy, before + __popc(holders & ((1U << lane) - 1U)));
    } else if (exists) {
      other(copy, of_copy);
    }
    before += __popc(holders);
  });
}

}  // namespace weft::kernels
