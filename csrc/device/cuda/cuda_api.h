#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "device/cuda/cuda_context.h"

/// Owners of CUDA handles. Deleters never throw.
namespace weft::device::cuda {

/// Lets this thread query, allocate and free while one of its streams captures: none of it touches the
/// capture, but CUDA refuses such calls unless told so.
class RelaxedCapture {
 public:
  RelaxedCapture() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

struct StreamDeleter {
  void operator()(cudaStream_t stream) const noexcept { (void)cudaStreamDestroy(stream); }
};
using StreamHandle = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;

struct EventDeleter {
  void operator()(cudaEvent_t event) const noexcept { (void)cudaEventDestroy(event); }
};
using EventHandle = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;

struct GraphDeleter {
  void operator()(cudaGraph_t graph) const noexcept { (void)cudaGraphDestroy(graph); }
};
using GraphHandle = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphDeleter>;

struct GraphExecDeleter {
  void operator()(cudaGraphExec_t exec) const noexcept { (void)cudaGraphExecDestroy(exec); }
};
using GraphExecHandle = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphExecDeleter>;

struct DeviceMemoryDeleter {
  void operator()(void* memory) const noexcept { (void)cudaFree(memory); }
};
using DeviceMemory = std::unique_ptr<void, DeviceMemoryDeleter>;

struct HostMemoryDeleter {
  void operator()(void* memory) const noexcept { (void)cudaFreeHost(memory); }
};
using HostMemory = std::unique_ptr<void, HostMemoryDeleter>;

[[nodiscard]] StreamHandle make_stream_handle();
/// timed: cudaEventElapsedTime may read it.
[[nodiscard]] EventHandle make_event_handle(bool timed);

}  // namespace weft::device::cuda
