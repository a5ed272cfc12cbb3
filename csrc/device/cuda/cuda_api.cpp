#include "device/cuda/cuda_api.h"

#include <vector>

#include "base/error.h"
#include "device/cuda/kernel_list.h"

namespace weft::device::cuda {

void CudaContext::parallel_for(int64_t /*n*/, int64_t /*grain*/,
                               const std::function<void(int64_t, int64_t)>& /*body*/) {
  WEFT_THROW("this op has no CUDA kernel: it computes on the host, which cannot see device memory");
}

void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // errors that do not stick would be found again by the next check
  WEFT_THROW("{}: CUDA error {} ({})", what, cudaGetErrorName(error), cudaGetErrorString(error));
}

int device_attribute(cudaDeviceAttr attribute, int ordinal) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, ordinal), "cudaDeviceGetAttribute");
  return value;
}

int device_attribute(cudaDeviceAttr attribute) {
  int ordinal = 0;
  check_cuda(cudaGetDevice(&ordinal), "cudaGetDevice");
  return device_attribute(attribute, ordinal);
}

void refuse_op(const char* op, const char* why) { WEFT_THROW("{}: {}", op, why); }

StreamHandle make_stream_handle() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return StreamHandle(stream);
}

EventHandle make_event_handle(bool timed) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming),
             "cudaEventCreate");
  return EventHandle(event);
}

namespace {

struct Kernel {
  const void* address;
  void (*load)(const void* kernel, int ordinal);
};

// Filled by static objects of kernel files, before main or while the library is loaded.
std::vector<Kernel>& kernel_list() {
  static std::vector<Kernel> kernels;
  return kernels;
}

}  // namespace

void register_kernel(const void* kernel, void (*load)(const void* kernel, int ordinal)) {
  kernel_list().push_back({kernel, load});
}

size_t load_kernels(int ordinal) {
  for (const Kernel& kernel : kernel_list()) kernel.load(kernel.address, ordinal);
  return kernel_list().size();
}

}  // namespace weft::device::cuda
