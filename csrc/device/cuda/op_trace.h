#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "device/cuda/cuda_api.h"
#include "device/device.h"

namespace weft::device::cuda {

/// When ops ran, by a pair of timed events around each. Thread-safe.
class OpTrace {
 public:
  [[nodiscard]] bool active() const { return active_.load(std::memory_order_relaxed); }
  void start();
  /// Waits for the ops that were traced.
  [[nodiscard]] std::vector<OpSpan> take();

  /// Records the start of an op on `stream`; hand the result to end().
  [[nodiscard]] EventHandle begin(cudaStream_t stream);
  void end(cudaStream_t stream, EventHandle start, const std::string& name, std::string_view op, int32_t tag,
           OpKind kind);

 private:
  struct Entry {
    std::string stream;
    std::string_view op;
    int32_t tag;
    OpKind kind;
    EventHandle start;
    EventHandle end;
  };

  std::atomic<bool> active_{false};
  std::mutex mutex_;
  EventHandle base_;
  double base_us_ = 0.0;  // steady clock at `base_`
  std::vector<Entry> entries_;
};

}  // namespace weft::device::cuda
