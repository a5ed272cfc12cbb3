#include "device/cuda/cuda_event.h"

#include "base/error.h"
#include "device/stream_checks.h"

namespace weft::device::cuda {

void CudaEvent::check_on_host(const char* what) const {
  check_not_captured(what, record_.capture != nullptr, record_.stream);
}

bool CudaEvent::query() const {
  check_on_host("Event::query");
  core_->check();
  if (record_.handle == nullptr) return true;
  core_->bind();
  const RelaxedCapture relaxed;
  const cudaError_t state = cudaEventQuery(handle_.get());
  core_->check();
  if (state == cudaErrorNotReady) return false;
  check_cuda(state, "Event::query");
  return true;
}

void CudaEvent::wait_idle(std::chrono::milliseconds timeout) {
  check_on_host("Event::wait_idle");
  core_->check();
  if (record_.handle == nullptr) return;
  core_->bind();
  core_->wait(handle_.get(), timeout, record_.stream, "an event", [&] {
    return fmt::format("the last kernel to run in the stream is of {}",
                       core_->progress->last_op(record_.stream));
  });
}

}  // namespace weft::device::cuda
