#pragma once

// The part of CUDA that weft uses, on the CPU. With WEFT_CUDA=EMULATED this folder stands in front of the
// toolkit's headers: device/cuda then drives streams, events and graphs of a CPU device, and kernels are
// plain functions that block.h runs thread by thread, so that their arithmetic, indices, barriers and bounds
// can be tested, and looked at by AddressSanitizer, where there is no GPU. What only a GPU has stays
// untested: memory that the host cannot read, real concurrency of threads, and the tensor core's own
// rounding.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "device/device.h"
#include "tests_cpp/support/cuda_emulation/block.h"

// NOLINTBEGIN: names are CUDA's.

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnjoined = 904,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace weft::emulation {
struct StreamState;
struct EventState;
struct GraphState;
struct GraphExecState;
}  // namespace weft::emulation
using cudaStream_t = weft::emulation::StreamState*;
using cudaEvent_t = weft::emulation::EventState*;
using cudaGraph_t = weft::emulation::GraphState*;
using cudaGraphExec_t = weft::emulation::GraphExecState*;

enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1, cudaStreamCaptureModeRelaxed = 2 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0;
constexpr unsigned cudaEventDisableTiming = 2;
constexpr unsigned cudaHostAllocPortable = 1;
constexpr unsigned cudaHostAllocMapped = 2;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);

cudaError_t cudaMalloc(void** memory, size_t num_bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, size_t num_bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMemset(void* memory, int value, size_t num_bytes);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t num_bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end);

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);

namespace weft::emulation {

/// Arguments of a kernel as trivially copyable bytes, which std::tuple is not.
template <size_t kIndex, class T>
struct Argument {
  T value;
};
template <class Indices, class... T>
struct Arguments;
template <size_t... kIndex, class... T>
struct Arguments<std::index_sequence<kIndex...>, T...> : Argument<kIndex, T>... {
  void call(void (*kernel)(T...)) const { kernel(static_cast<const Argument<kIndex, T>&>(*this).value...); }
};

template <class... T>
struct Launch {
  dim3 grid;
  dim3 block;
  unsigned cluster_blocks;
  size_t shared_bytes;
  void (*kernel)(T...);
  Arguments<std::index_sequence_for<T...>, T...> args;
};

/// The stream to enqueue a kernel on. Throws Error if it is to overlap with what stands before it, and that
/// is no kernel.
weft::device::Stream& stream_for_kernel(cudaStream_t stream, bool overlaps);
/// Nanoseconds of a clock that all kernels share.
uint64_t device_time();
/// Kernels so far that were launched to overlap.
int64_t num_overlapping_kernels();

template <class... T, size_t... kIndex>
void launch_indexed(dim3 grid, dim3 block, unsigned cluster_blocks, size_t shared_bytes, cudaStream_t stream,
                    bool overlaps, void (*kernel)(T...), const std::tuple<T...>& args,
                    std::index_sequence<kIndex...>) {
  const Launch<T...> launched{grid,         block,  cluster_blocks,
                              shared_bytes, kernel, {Argument<kIndex, T>{std::get<kIndex>(args)}...}};
  const auto run = [](const Launch<T...>& l, weft::device::ExecContext&) {
    run_grid(l.grid, l.block, l.cluster_blocks, l.shared_bytes, [&l] { l.args.call(l.kernel); });
  };
  stream_for_kernel(stream, overlaps)
      .launch<Launch<T...>>("kernel", +run, launched, std::initializer_list<weft::device::Access>{});
}
template <class... T>
void launch(dim3 grid, dim3 block, unsigned cluster_blocks, size_t shared_bytes, cudaStream_t stream,
            bool overlaps, void (*kernel)(T...), const std::tuple<T...>& args) {
  launch_indexed(grid, block, cluster_blocks, shared_bytes, stream, overlaps, kernel, args,
                 std::index_sequence_for<T...>{});
}

}  // namespace weft::emulation

using std::isfinite;
using std::isnan;

inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, 4);
  return y;
}
/// Each of the four bytes of the result is the byte of y:x that four bits of `selector` name.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t from = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(from >> 8 * (selector >> 4 * i & 7U) & 0xffU) << 8 * i;
  }
  return result;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T __ldcg(const T* address) {
  return *address;
}
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
template <class T>
T atomicCAS(T* address, T expected, T desired) {
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}
template <class T>
T atomicAdd(T* address, T value) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
template <class T>
T atomicOr(T* address, T value) {
  return __atomic_fetch_or(address, value, __ATOMIC_SEQ_CST);
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
void __nanosleep(unsigned ns);

// NOLINTEND
