#pragma once

#include <cuda_runtime.h>

#include <cstdint>

/// Blocks of a cluster: they run at the same time, and reach each other's dynamic shared memory.
namespace weft::kernels {

constexpr int kMaxCluster = 8;  // blocks that every GPU with clusters can run so

/// Says that this thread has come so far. Every thread of the cluster must, then it may wait; one that ends
/// instead counts as arrived.
__device__ inline void cluster_arrive() {
#if WEFT_CUDA_EMULATED
  emulation::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
/// The same for a thread that has stored nothing for the others, and has used what it loaded from them. Does
/// not wait until its stores to memory are done.
__device__ inline void cluster_arrive_relaxed() {
#if WEFT_CUDA_EMULATED
  emulation::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
/// Waits until all threads have arrived as often as this one; what they stored before is seen.
__device__ inline void cluster_wait() {
#if WEFT_CUDA_EMULATED
  emulation::cluster_wait();
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/// *shared = value, in block `rank` of the cluster; `shared` is an address of this block's.
__device__ inline void store_to_block(float4* shared, int rank, const float4& value) {
#if WEFT_CUDA_EMULATED
  *static_cast<float4*>(emulation::shared_of_block(shared, rank)) = value;
#elif __CUDA_ARCH__ >= 900
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile(
      "{\n\t.reg .b32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
      "st.shared::cluster.v4.f32 [remote], {%2, %3, %4, %5};\n\t}" ::"r"(address),
      "r"(rank), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
      : "memory");
#endif
}

/// What stands at `shared`, an address of this block's, in block `rank` of the cluster.
__device__ inline float4 load_from_block(const float4* shared, int rank) {
  float4 value{};
#if WEFT_CUDA_EMULATED
  value = *static_cast<const float4*>(emulation::shared_of_block(const_cast<float4*>(shared), rank));
#elif __CUDA_ARCH__ >= 900
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile(
      "{\n\t.reg .b32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %4, %5;\n\t"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n\t}"
      : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
      : "r"(address), "r"(rank)
      : "memory");
#endif
  return value;
}
__device__ inline uint32_t load_from_block(const uint32_t* shared, int rank) {
  uint32_t value = 0;
#if WEFT_CUDA_EMULATED
  value = *static_cast<const uint32_t*>(emulation::shared_of_block(shared, rank));
#elif __CUDA_ARCH__ >= 900
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile(
      "{\n\t.reg .b32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %1, %2;\n\t"
      "ld.shared::cluster.u32 %0, [remote];\n\t}"
      : "=r"(value)
      : "r"(address), "r"(rank)
      : "memory");
#endif
  return value;
}

}  // namespace weft::kernels
