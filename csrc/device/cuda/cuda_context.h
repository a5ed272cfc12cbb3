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

/// A launch's way to the host, passed to kernels by value: where to report a failure, and that it runs.
struct OpSite {
  int32_t* taken = nullptr;         // device: 1 once a kernel reports; the first one wins
  FailureRecord* record = nullptr;  // mapped host memory
  const void** progress = nullptr;  // device word of the stream: `op` of the last kernel that ran
  const void* op = nullptr;         // host: who this is; kernels only hand it on
  uint64_t* stamp = nullptr;        // where to write the time, device or mapped host; null: nowhere
};
static_assert(std::is_trivially_copyable_v<OpSite>);

/// What stands at the end of a stream: whether the next kernel may begin before that has ended (programmatic
/// dependent launch).
struct StreamTail {
  bool can_overlap = false;   // false where ops are to run one by one
  bool after_kernel = false;  // the last item is a kernel of launch(), which waits for what is before it
};

class CublasLt;

/// What ops need to know of a device.
struct DeviceParts {
  int num_sms = 1;                // multiprocessors
  CublasLt* cublas_lt = nullptr;  // null: none
};

/// The context of an op on a CUDA device. The op runs when it is enqueued, on the host, and launches kernels
/// on its stream, also while that is capturing: so it must not synchronise, allocate or read device memory.
class CudaContext final : public ExecContext {
 public:
  CudaContext(cudaStream_t stream, StreamTail& tail, const OpSite& op_site, const DeviceParts& parts)
      : site(op_site), num_sms(parts.num_sms), cublas_lt(parts.cublas_lt), stream_(stream), tail_(tail) {}

  [[nodiscard]] int num_threads() const override { return 1; }
  /// Throws: an op of the host has no place in a CUDA stream.
  void parallel_for(int64_t n, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body) override;

  /// The stream, for copies and for kernels that launch() does not launch (of cuBLASLt, say). The next kernel
  /// of launch() then begins when all of that has ended.
  [[nodiscard]] cudaStream_t foreign_stream() const {
    tail_.after_kernel = false;
    return stream_;
  }
  /// The stream for a kernel of launch(), and whether it may begin before the one before it has ended.
  struct Next {
    cudaStream_t stream;
    bool overlaps;
  };
  [[nodiscard]] Next next_kernel() const {
    const bool overlaps = tail_.can_overlap && tail_.after_kernel;
    tail_.after_kernel = true;
    return {stream_, overlaps};
  }

  const OpSite site;
  const int num_sms;
  CublasLt* const cublas_lt;

 private:
  cudaStream_t stream_;
  StreamTail& tail_;
};

/// Shared memory in bytes that every device allows a block: others are refused (why_unusable()).
constexpr int kSharedBytesOfBlock = 227 << 10;

/// Throws Error, naming `what` and the reason, unless `error` is success.
void check_cuda(cudaError_t error, const char* what);
/// An attribute of GPU `ordinal`, or of that of this thread.
[[nodiscard]] int device_attribute(cudaDeviceAttr attribute, int ordinal);
[[nodiscard]] int device_attribute(cudaDeviceAttr attribute);
/// Throws Error: "<op>: <why>".
[[noreturn]] void refuse_op(const char* op, const char* why);

/// Makes a kernel known: every one is loaded when a device is made, since one that loads later may have to
/// wait for a running kernel, and that one for it. `load` belongs to the kernel's own program or library, as
/// a statically linked CUDA runtime knows those kernels alone; it throws Error.
void register_kernel(const void* kernel, void (*load)(const void* kernel, int ordinal));

}  // namespace weft::device::cuda
