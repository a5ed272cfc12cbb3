// CUDA's runtime over a CPU device, whose streams, events and graphs are of the same kind.
#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace weft::emulation {

namespace {

device::Device& cpu() {
  // Never destroyed: streams of static objects may outlive any order of exit.
  static device::Device* device = device::make_cpu_device({.name = "emulated"}).release();
  return *device;
}

// Runs `call`; an error of the CPU device becomes `code`.
template <class Call>
cudaError_t guarded(cudaError_t code, const Call& call) {
  try {
    call();
    return cudaSuccess;
  } catch (const Error& error) {
    if (code == cudaErrorLaunchFailure) std::fprintf(stderr, "CUDA emulation: %s\n", error.what());
    return code;
  }
}

}  // namespace

struct StreamState {
  std::unique_ptr<device::Stream> stream;
  bool after_kernel = false;  // the last item is a kernel

  /// To enqueue something else on.
  device::Stream& other() {
    after_kernel = false;
    return *stream;
  }
};
struct EventState {
  std::unique_ptr<device::Event> event;
  bool timed = false;
  std::shared_ptr<double> ms = std::make_shared<double>(0.0);
};
struct GraphState {
  std::shared_ptr<device::Graph> graph;
};
struct GraphExecState {
  std::shared_ptr<device::Graph> graph;
};

namespace {
std::atomic<int64_t> overlapping_kernels{0};
}

device::Stream& stream_for_kernel(cudaStream_t stream, bool overlaps) {
  WEFT_CHECK(!overlaps || stream->after_kernel,
             "emulation: a kernel overlaps with what is before it, which is no kernel");
  overlapping_kernels += overlaps ? 1 : 0;
  stream->after_kernel = true;
  return *stream->stream;
}
uint64_t device_time() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                               std::chrono::nanoseconds(1));
}
int64_t num_overlapping_kernels() { return overlapping_kernels; }

namespace {

struct StampArgs {
  double* ms;
};
void run_stamp(const StampArgs& args, device::ExecContext&) {
  *args.ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct SetArgs {
  void* to;
  const void* from;  // null: `value`
  int value;
  size_t num_bytes;
};
void run_set(const SetArgs& args, device::ExecContext&) {
  if (args.from != nullptr) {
    std::memcpy(args.to, args.from, args.num_bytes);
  } else {
    std::memset(args.to, args.value, args.num_bytes);
  }
}

// Few, so that small products already take the kernel for large ones.
constexpr int kMultiprocessors = 2;

/// The memory of the emulated GPU, so that a leak shows in cudaMemGetInfo.
class DeviceMemory {
 public:
  static constexpr size_t kTotalBytes = size_t{64} << 30;

  void* allocate(size_t num_bytes) {
    void* memory = allocate_host(num_bytes);
    if (memory == nullptr) return nullptr;
    const std::lock_guard lock(mutex_);
    sizes_[memory] = num_bytes;
    used_ += num_bytes;
    return memory;
  }
  /// Full of NaN, as nobody has written it.
  static void* allocate_host(size_t num_bytes) {
    if (num_bytes > kTotalBytes) return nullptr;
    // Not aligned_alloc, whose sizes are multiples: an address checker is to see one byte too far.
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, num_bytes) != 0) return nullptr;
    std::memset(memory, 0xff, num_bytes);
    return memory;
  }
  void release(void* memory) {
    if (memory != nullptr) {
      const std::lock_guard lock(mutex_);
      const auto found = sizes_.find(memory);
      used_ -= found->second;
      sizes_.erase(found);
    }
    std::free(memory);
  }
  size_t free_bytes() {
    const std::lock_guard lock(mutex_);
    return kTotalBytes - used_;
  }

 private:
  std::mutex mutex_;
  std::map<void*, size_t> sizes_;
  size_t used_ = 0;
};
DeviceMemory& device_memory() {
  static DeviceMemory* memory = new DeviceMemory;  // may outlive any order of exit
  return *memory;
}

}  // namespace
}  // namespace weft::emulation

using namespace weft::emulation;
using weft::device::Access;

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "cudaError";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "a kernel threw; see stderr" : "emulated";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"emulated on the CPU", 9, 0, kMultiprocessors, DeviceMemory::kTotalBytes};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? kMultiprocessors
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
                                                            : 227 * 1024;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = 0;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaMalloc(void** memory, size_t num_bytes) {
  *memory = device_memory().allocate(num_bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  device_memory().release(memory);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, size_t num_bytes, unsigned) {
  *memory = DeviceMemory::allocate_host(num_bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = DeviceMemory::kTotalBytes;
  *free_bytes = device_memory().free_bytes();
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t num_bytes) {
  std::memset(memory, value, num_bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t num_bytes, cudaStream_t stream) {
  return guarded(cudaErrorInvalidValue, [&] {
    stream->other().launch<SetArgs>("memset", run_set, {memory, nullptr, value, num_bytes},
                                    std::initializer_list<Access>{});
  });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return guarded(cudaErrorInvalidValue, [&] {
    stream->other().launch<SetArgs>("memcpy", run_set, {to, from, 0, num_bytes},
                                    std::initializer_list<Access>{});
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new StreamState{cpu().make_stream("emulated")};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const auto event = cpu().make_event();
  bool reached = false;
  const cudaError_t error = guarded(cudaErrorLaunchFailure, [&] {
    stream->stream->record(*event);
    reached = event->query();
  });
  return error != cudaSuccess ? error : reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return guarded(cudaErrorInvalidValue, [&] { stream->other().wait(*event->event); });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return guarded(cudaErrorInvalidValue, [&] { stream->other().begin_capture(); });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  return guarded(cudaErrorStreamCaptureUnjoined,
                 [&] { *graph = new GraphState{stream->other().end_capture()}; });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream->stream->is_capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new EventState{cpu().make_event(), (flags & cudaEventDisableTiming) == 0};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return guarded(cudaErrorInvalidValue, [&] {
    if (event->timed) {
      stream->other().launch<StampArgs>("stamp", run_stamp, {event->ms.get()},
                                        std::initializer_list<Access>{});
    }
    stream->other().record(*event->event);
  });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  bool reached = false;
  const cudaError_t error = guarded(cudaErrorLaunchFailure, [&] { reached = event->event->query(); });
  return error != cudaSuccess ? error : reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return guarded(cudaErrorLaunchFailure, [&] { event->event->wait_idle(std::chrono::hours(1)); });
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  *ms = static_cast<float>(*end->ms - *start->ms);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new GraphExecState{graph->graph};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return guarded(cudaErrorInvalidValue, [&] { stream->other().replay(*exec->graph); });
}

void __nanosleep(unsigned ns) { std::this_thread::sleep_for(std::chrono::nanoseconds(ns)); }
