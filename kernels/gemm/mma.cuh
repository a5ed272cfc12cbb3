#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/dtype.h"

/// The tensor cores' product of 16-bit floats, and copies that run while it works.
namespace weft::kernels {

/// c += a * b for a warp: a [16, 16], b [16, 8], c [16, 8] in f32. Lane l = 4 * g + t holds
///   a: {[g][2t, 2t+1], [g+8][2t, 2t+1], [g][2t+8, 2t+9], [g+8][2t+8, 2t+9]}
///   b: {[2t, 2t+1][g], [2t+8, 2t+9][g]}
///   c: {[g][2t], [g][2t+1], [g+8][2t], [g+8][2t+1]}
/// with two 16-bit floats a register, the first one low.
template <class T>
__device__ inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(sizeof(T) == 2);
#if WEFT_CUDA_EMULATED
  emulation::mma_16x8x16<T>(c, a, b);
#else
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

/// In a step of 32 columns lane t of a row holds columns [8t, 8t + 8): one access. The tensor core's two
/// steps of 16 take them as its columns (2t, 2t+1) and (2t+8, 2t+9): a sum over k does not mind, as long as a
/// and w agree. half: which of the two steps.
__device__ inline void as_a(uint32_t (&a)[4], const uint4& upper, const uint4& lower, int half) {
  a[0] = half == 0 ? upper.x : upper.z;
  a[1] = half == 0 ? lower.x : lower.z;
  a[2] = half == 0 ? upper.y : upper.w;
  a[3] = half == 0 ? lower.y : lower.w;
}
__device__ inline void as_b(uint32_t (&b)[2], const uint4& w, int half) {
  b[0] = half == 0 ? w.x : w.z;
  b[1] = half == 0 ? w.y : w.w;
}

/// Starts to copy 16 bytes from global to shared memory; zeros instead if they do not exist (`global` is then
/// any valid address). kStreamed: its neighbours will be copied soon, and are brought to the L2 cache with
/// it.
template <bool kStreamed = false>
__device__ inline void copy_async(uint4* shared, const void* global, bool exists) {
#if WEFT_CUDA_EMULATED
  *shared = exists ? *static_cast<const uint4*>(global) : uint4{};
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int num_bytes = exists ? 16 : 0;
  if constexpr (kStreamed) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
                 "r"(num_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(num_bytes)
                 : "memory");
  }
#endif
}
/// Ends a group of copies.
__device__ inline void commit_copies() {
#if !WEFT_CUDA_EMULATED
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until at most kPending groups of this thread are under way.
template <int kPending>
__device__ inline void wait_for_copies() {
#if !WEFT_CUDA_EMULATED
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace weft::kernels
