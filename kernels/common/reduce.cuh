#pragma once

#include <cuda_runtime.h>

/// Reductions in a fixed order, so that a result depends on the values alone.
namespace weft::kernels {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffU;

template <class T, class Op>
__device__ T warp_reduce(T value, const Op& op) {
  for (int step = kWarpSize / 2; step > 0; step /= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/// The same for all threads of a block, in every thread. `scratch`: shared, one T a warp. Begins and ends
/// with a barrier.
template <class T, class Op>
__device__ T block_reduce(T value, T* scratch, const Op& op) {
  value = warp_reduce(value, op);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) scratch[warp] = value;
  __syncthreads();
  T total = scratch[0];
  for (int w = 1; w < num_warps; ++w) total = op(total, scratch[w]);
  __syncthreads();
  return total;
}

}  // namespace weft::kernels
