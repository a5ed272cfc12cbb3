#include "device/cuda/cuda_core.h"

#include <algorithm>
#include <new>
#include <thread>

#include "base/error.h"
#include "device/cuda/kernel_list.h"

namespace weft::device::cuda {

std::string why_unusable(int ordinal) {
  return why_unusable(ordinal, device_attribute(cudaDevAttrComputeCapabilityMajor, ordinal),
                      device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal));
}

std::string why_unusable(int ordinal, int major, int shared_bytes) {
  if (major >= 9 && shared_bytes >= kSharedBytesOfBlock) return {};
  return fmt::format(
      "GPU {} has compute capability {}.x and {} KiB of shared memory a block; kernels need 9.0 or later and "
      "{} KiB, as H100, H200 and B200 have; use --device cpu",
      ordinal, major, shared_bytes >> 10, kSharedBytesOfBlock >> 10);
}

Core::Core(CudaOptions device_options) : options(std::move(device_options)) {
  const int count = cuda_device_count();
  WEFT_CHECK(count > 0, "{}: {}", options.name, cuda_unavailable_reason());
  WEFT_CHECK(options.ordinal >= 0 && options.ordinal < count, "{}: there is no GPU {}; this machine has {}",
             options.name, options.ordinal, count);
  const std::string reason = why_unusable(options.ordinal);
  WEFT_CHECK(reason.empty(), "{}: {}", options.name, reason);
  bind();
  num_sms = device_attribute(cudaDevAttrMultiProcessorCount, options.ordinal);
  static_cast<void>(load_kernels(options.ordinal));
  progress.emplace();
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, sizeof(FailureRecord), cudaHostAllocMapped), "cudaHostAlloc");
  record_memory_.reset(memory);
  record_ = new (memory) FailureRecord;
  check_cuda(cudaMalloc(&memory, sizeof(int32_t)), "cudaMalloc");
  taken_.reset(memory);
  check_cuda(cudaMemset(memory, 0, sizeof(int32_t)), "cudaMemset");
}

Core::~Core() {
  (void)cudaSetDevice(options.ordinal);
  for (Retired& retired : retired_) retired.release();
}

void Core::bind() const { check_cuda(cudaSetDevice(options.ordinal), "cudaSetDevice"); }

DeviceMemory Core::allocate(size_t num_bytes, const std::string& name) {
  bind();
  sweep();
  const RelaxedCapture relaxed;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, std::max<size_t>(num_bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0;
    size_t total = 0;
    (void)cudaMemGetInfo(&free, &total);
    WEFT_THROW("{}: no memory for buffer '{}' of {} bytes; {} of {} bytes are free", options.name, name,
               num_bytes, free, total);
  }
  check_cuda(error, "cudaMalloc");
  return DeviceMemory(memory);
}

HostMemory Core::allocate_host(size_t num_bytes, const std::string& name) {
  bind();
  const RelaxedCapture relaxed;
  void* memory = nullptr;
  const cudaError_t error =
      cudaHostAlloc(&memory, std::max<size_t>(num_bytes, 1), cudaHostAllocMapped | cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    WEFT_THROW("{}: no pinned host memory for buffer '{}' of {} bytes", options.name, name, num_bytes);
  }
  check_cuda(error, "cudaHostAlloc");
  return HostMemory(memory);
}

void Core::add_stream(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  streams_.push_back(stream);
}

void Core::remove_stream(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  streams_.erase(std::find(streams_.begin(), streams_.end(), stream));
}

void Core::retire(std::function<void()> release) {
  {
    const RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    Retired retired;
    for (const cudaStream_t stream : streams_) {
      cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
      if (cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone) {
        continue;  // an event would become part of the capture; freeing waits for what runs from before
      }
      if (cudaStreamQuery(stream) == cudaSuccess) continue;
      retired.users.push_back(make_event_handle(false));
      (void)cudaEventRecord(retired.users.back().get(), stream);
    }
    retired.release = std::move(release);
    retired_.push_back(std::move(retired));
  }
  sweep();
}

void Core::sweep() {
  const RelaxedCapture relaxed;
  std::list<Retired> done;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = retired_.begin(); it != retired_.end();) {
      const bool over = std::all_of(it->users.begin(), it->users.end(), [](const EventHandle& event) {
        return cudaEventQuery(event.get()) != cudaErrorNotReady;
      });
      const auto next = std::next(it);
      if (over) done.splice(done.end(), retired_, it);
      it = next;
    }
  }
  for (Retired& retired : done) retired.release();
}

const OpName* Core::intern(const std::string& stream, std::string_view op) {
  const std::lock_guard lock(mutex_);
  auto& name = names_[{stream, std::string(op)}];
  if (name == nullptr) name = std::make_unique<OpName>(OpName{stream, std::string(op)});
  return name.get();
}

OpSite Core::site(const OpName* op, const void** word, uint64_t* stamp) const {
  return {.taken = static_cast<int32_t*>(taken_.get()),
          .record = record_,
          .progress = word,
          .op = op,
          .stamp = stamp};
}

void Core::capture_begins(const std::string& stream) {
  const std::lock_guard lock(mutex_);
  capturing_.push_back(stream);
}

void Core::capture_ends(const std::string& stream) {
  const std::lock_guard lock(mutex_);
  capturing_.erase(std::find(capturing_.begin(), capturing_.end(), stream));
}

void Core::check_no_capture(std::string_view where, std::string_view what) const {
  const std::lock_guard lock(mutex_);
  WEFT_CHECK(capturing_.empty(),
             "{} op '{}': stream '{}' is capturing; join the capture by waiting for an event recorded in it, "
             "or enqueue this after end_capture",
             where, what, capturing_.front());
}

void Core::read_failure() {
  const volatile int32_t& ready = record_->ready;
  if (ready == 0) return;
  const auto* op = static_cast<const OpName*>(record_->op);
  const auto& v = record_->values;
  fail_op(op->stream, op->op, fmt::format(fmt::runtime(record_->message), v[0], v[1], v[2], v[3]));
}

void Core::check() {
  read_failure();
  health.check();
}

void Core::fail_op(std::string_view stream, std::string_view op, std::string_view what) {
  health.fail(fmt::format("{} {} op '{}': {}", options.name, stream, op, what));
}

void Core::wait(cudaEvent_t handle, std::chrono::milliseconds timeout, const std::string& stream,
                const char* what, const std::function<std::string()>& where) {
  using Clock = std::chrono::steady_clock;
  const RelaxedCapture relaxed;
  const auto start = Clock::now();
  for (;;) {
    const cudaError_t state = cudaEventQuery(handle);
    check();
    if (state == cudaSuccess) return;
    if (state != cudaErrorNotReady) {
      health.fail(fmt::format("{} {}: CUDA error {} ({}), in or near {}", options.name, stream,
                              cudaGetErrorName(state), cudaGetErrorString(state), progress->last_op(stream)));
      health.check();
    }
    const auto waited = Clock::now() - start;
    WEFT_CHECK(waited < timeout, "{} {}: waited {} ms for {}; {}", options.name, stream, timeout.count(),
               what, where());
    // A step takes milliseconds: its end is met at once, and a long wait leaves the core to others.
    if (waited < std::chrono::milliseconds(2)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

}  // namespace weft::device::cuda
