#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/buffer_table.h"
#include "device/cuda/cublas_lt.h"
#include "device/cuda/cuda_api.h"
#include "device/cuda/op_trace.h"
#include "device/cuda/progress_words.h"
#include "device/device.h"
#include "device/health.h"

namespace weft::device::cuda {

/// Why GPU `ordinal` cannot run weft's kernels: they use clusters of blocks, and shared memory as Hopper has
/// it. Empty if it can.
[[nodiscard]] std::string why_unusable(int ordinal);
/// The same of one whose blocks may have so much shared memory. major: of its compute capability.
[[nodiscard]] std::string why_unusable(int ordinal, int major, int shared_bytes);

/// What the parts of one CUDA device share. Thread-safe, but for what its members say.
class Core {
 public:
  explicit Core(CudaOptions device_options);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  /// Makes the device the calling thread's current one.
  void bind() const;

  [[nodiscard]] DeviceMemory allocate(size_t num_bytes, const std::string& name);
  [[nodiscard]] HostMemory allocate_host(size_t num_bytes, const std::string& name);
  /// Calls `release` once all that is enqueued now is done, since it may use what is released. Never blocks.
  void retire(std::function<void()> release);
  /// Releases what is no longer in use.
  void sweep();

  void add_stream(cudaStream_t stream);
  void remove_stream(cudaStream_t stream);

  /// `op` is static text.
  [[nodiscard]] const OpName* intern(const std::string& stream, std::string_view op);
  [[nodiscard]] DeviceParts parts() { return {.num_sms = num_sms, .cublas_lt = &cublas_lt}; }
  [[nodiscard]] OpSite site(const OpName* op, const void** word, uint64_t* stamp) const;

  void capture_begins(const std::string& stream);
  void capture_ends(const std::string& stream);
  /// Throws Error if some stream is capturing, for work of a stream that is not.
  void check_no_capture(std::string_view where, std::string_view what) const;

  /// Takes over what a kernel reported, then throws the device's failure if there is one.
  void check();
  /// Becomes the device's failure: "<device> <stream> op '<op>': <what>".
  void fail_op(std::string_view stream, std::string_view op, std::string_view what);
  /// Polls until `handle` has been reached. Throws the device's failure, or on timeout "<device> <stream>:
  /// waited .. for <what>; <where()>".
  void wait(cudaEvent_t handle, std::chrono::milliseconds timeout, const std::string& stream,
            const char* what, const std::function<std::string()>& where);

  const CudaOptions options;
  Health health;
  BufferTable buffers;
  OpTrace trace;
  std::optional<ProgressWords> progress;  // always there
  int num_sms = 0;
  std::atomic<int64_t> num_ops{0};
  std::atomic<size_t> allocated_bytes{0};

 private:
  struct Retired {
    std::vector<EventHandle> users;
    std::function<void()> release;
  };

  void read_failure();

  HostMemory record_memory_;
  DeviceMemory taken_;
  FailureRecord* record_ = nullptr;

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, std::unique_ptr<OpName>> names_;
  std::vector<std::string> capturing_;
  std::vector<cudaStream_t> streams_;
  std::list<Retired> retired_;

 public:
  CublasLt cublas_lt{*this};  // last, as it allocates
};

}  // namespace weft::device::cuda
