#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#include "device/device.h"

/// What an op sees of CUDA. Kernel files include this; so there is no fmt in it.
namespace weft::device::cuda {

/// What a kernel reports when its input contradicts itself. In pinned host memory.
struct FailureRecord {
  const void* op = nullptr;       // OpSite::op of the launch
  const char* message = nullptr;  // host, static: a fmt text over `values`
  int64_t values[4] = {};
  int32_t ready = 0;  // written last
};

/// A launch's way to the host, passed to kernels by value: where to report a failure, and that it began.
struct OpSite {
  int32_t* taken = nullptr;         // device: 1 once a kernel reports; the first one wins
  FailureRecord* record = nullptr;  // mapped host memory
  const void** progress = nullptr;  // mapped host word of the stream: `op` of the last kernel that began
  const void* op = nullptr;         // host: who this is; kernels only hand it on
};
static_assert(std::is_trivially_copyable_v<OpSite>);

/// The context of an op on a CUDA device. The op runs when it is enqueued, on the host, and launches kernels
/// on `stream`, also while that is capturing: so it must not synchronise, allocate or read device memory.
class CudaContext final : public ExecContext {
 public:
  CudaContext(cudaStream_t cuda_stream, const OpSite& op_site, int sms)
      : stream(cuda_stream), site(op_site), num_sms(sms) {}

  [[nodiscard]] int num_threads() const override { return 1; }
  /// Throws: an op of the host has no place in a CUDA stream.
  void parallel_for(int64_t n, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body) override;

  const cudaStream_t stream;
  const OpSite site;
  const int num_sms;  // multiprocessors of the device
};

/// Throws Error, naming `what` and the reason, unless `error` is success.
void check_cuda(cudaError_t error, const char* what);
/// Throws Error: "<op>: <why>".
[[noreturn]] void refuse_op(const char* op, const char* why);

/// Makes a kernel known: every one is loaded when a device is made, since one that loads later may have to
/// wait for a running kernel, and that one for it. `load` belongs to the kernel's own program or library, as
/// a statically linked CUDA runtime knows those kernels alone; it throws Error.
void register_kernel(const void* kernel, void (*load)(const void* kernel, int ordinal));

}  // namespace weft::device::cuda
