#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "device/cuda/cuda_context.h"

/// How kernels are launched, and how they talk to the host. Every launch is checked.
namespace weft::kernels {

using device::cuda::CudaContext;
using device::cuda::OpSite;

inline CudaContext& cuda_context(device::ExecContext& context) { return static_cast<CudaContext&>(context); }

/// Up to three dimensions of blocks; the shared memory that the kernel asks for with dynamic_shared(); and
/// how many blocks along x make a cluster (cluster.cuh).
struct LaunchShape {
  dim3 grid{1};
  dim3 block{1};
  size_t shared_bytes = 0;
  unsigned cluster_blocks = 1;  // neighbours along x that run at the same time (kernels/common/cluster.cuh)
  /// The kernel needs much of the L1 cache. It begins when all before it has ended: only an idle
  /// multiprocessor can change how its memory is split into L1 and shared memory.
  bool needs_l1 = false;
};

/// `n` as a number of blocks. Throws if the grid cannot have so many.
inline unsigned grid_x(int64_t n) {
  if (n > INT32_MAX) device::cuda::refuse_op("launch", "more than 2^31 - 1 blocks");
  return static_cast<unsigned>(n);
}

namespace detail {

// Loads a kernel, and allows it all the shared memory that a block may have. Static: every program and
// library has its own, with its own CUDA runtime.
static void load_kernel(const void* kernel, int ordinal) {
  int shared_limit = 0;
  device::cuda::check_cuda(
      cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal),
      "cudaDeviceGetAttribute");
  cudaFuncAttributes attributes{};
  device::cuda::check_cuda(cudaFuncGetAttributes(&attributes, kernel),
                           "loading a kernel (was weft built for this GPU? see WEFT_CUDA_ARCHITECTURES)");
  const int dynamic = shared_limit - static_cast<int>(attributes.sharedSizeBytes);
  device::cuda::check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic > 0 ? dynamic : 0),
      "cudaFuncSetAttribute");
}

// An object of this type exists for each kernel that is launched somewhere, from before main on.
template <auto kKernel>
struct Registered {
  Registered() { device::cuda::register_kernel(reinterpret_cast<const void*>(kKernel), &load_kernel); }
  static const Registered instance;
};
template <auto kKernel>
const Registered<kKernel> Registered<kKernel>::instance{};

}  // namespace detail

/// Launches kKernel(args...) on the stream of `context`, where `args` convert to the kernel's parameters. Can
/// be captured. Throws Error if CUDA refuses.
///
/// Behind another kernel of launch() this one is dispatched early (programmatic dependent launch), by the
/// rules at wait_for_inputs(), unless it needs_l1. Behind anything else it begins when that has ended.
template <auto kKernel, class... Params>
void launch_as(void (*)(Params...), const CudaContext& context, const LaunchShape& shape,
               std::type_identity_t<Params>... args) {
  (void)&detail::Registered<kKernel>::instance;
  CudaContext::Next next = context.next_kernel();
  next.overlaps = next.overlaps && !shape.needs_l1;
#if WEFT_CUDA_EMULATED
  emulation::launch(shape.grid, shape.block, shape.cluster_blocks, shape.shared_bytes, next.stream,
                    next.overlaps, kKernel, std::tuple<Params...>(args...));
#else
  void* pointers[] = {static_cast<void*>(&args)...};
  cudaLaunchAttribute attributes[2] = {};
  unsigned num_attributes = 0;
  if (next.overlaps) {
    cudaLaunchAttribute& early = attributes[num_attributes++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster_blocks > 1) {
    cudaLaunchAttribute& cluster = attributes[num_attributes++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {shape.cluster_blocks, 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = next.stream;
  config.attrs = attributes;
  config.numAttrs = num_attributes;
  device::cuda::check_cuda(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kKernel), pointers),
                           "kernel launch");
#endif
}
template <auto kKernel, class... Args>
void launch(const CudaContext& context, const LaunchShape& shape, const Args&... args) {
  launch_as<kKernel>(kKernel, context, shape, args...);
}

namespace detail {

// Nanoseconds, the same clock on all of the device.
__device__ inline uint64_t device_time() {
#if WEFT_CUDA_EMULATED
  return emulation::device_time();
#else
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
#endif
}

}  // namespace detail

/// Lets the next kernel of the stream be dispatched once every block of this one has called this or ended.
/// Its blocks then take what room this grid leaves, and stop in wait_for_inputs() until this kernel is done.
/// May be called before wait_for_inputs(); without it the next kernel is dispatched when this one ends.
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Returns when the kernels before this one in the stream have ended, and what they wrote can be read; tells
/// the host, should it ask, that the stream is here, and when.
///
/// Every thread of every kernel calls it, exactly once and on every path, before it touches memory. Before it
/// stand only: arithmetic on the kernel's arguments, let_next_start(), fail(), and reads or prefetches of
/// weights, which no kernel ever writes. That is all that makes early dispatch safe: a kernel which has ended
/// implies that all before it have, and none touches memory before that. Where an op's contract says more of
/// what is written before, its kernel may read that too: ops/rope_write.h, ops/attention.h, and offsets_ready
/// in moe/expert_gemm.cuh. Threads of FlashInfer's and DeepGEMM's kernels that touch no memory end without
/// waiting.
__device__ inline void wait_for_inputs(const OpSite& site) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0) {
    *const_cast<const void* volatile*>(site.progress) = site.op;
    if (site.stamp != nullptr) *static_cast<volatile uint64_t*>(site.stamp) = detail::device_time();
  }
}

/// Reports that the input is wrong: the op fails with `message`, a host address of a static fmt text, over
/// the values. The first report of a device counts. The caller then goes on without the bad item: what a
/// kernel touches must be memory of its arguments, whatever their values.
__device__ inline void fail(const OpSite& site, const char* message, int64_t a = 0, int64_t b = 0,
                            int64_t c = 0, int64_t d = 0) {
  if (atomicCAS(site.taken, 0, 1) != 0) return;
  site.record->op = site.op;
  site.record->message = message;
  site.record->values[0] = a;
  site.record->values[1] = b;
  site.record->values[2] = c;
  site.record->values[3] = d;
  __threadfence_system();
  *static_cast<volatile int32_t*>(&site.record->ready) = 1;
}

/// The shared memory of LaunchShape::shared_bytes, 16-byte aligned.
template <class T>
__device__ T* dynamic_shared() {
#if WEFT_CUDA_EMULATED
  return static_cast<T*>(emulation::dynamic_shared());
#else
  extern __shared__ uint4 weft_dynamic_shared[];
  return reinterpret_cast<T*>(weft_dynamic_shared);
#endif
}

}  // namespace weft::kernels
