#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/buffer_table.h"
#include "device/cpu/op_runner.h"
#include "device/cpu/order_check.h"
#include "device/cpu/parallel.h"
#include "device/cpu/random_executor.h"
#include "device/cpu/stream_queue.h"
#include "device/cpu/task_threads.h"
#include "device/device.h"
#include "device/health.h"

namespace weft::device::cpu {

struct FreeDeleter {
  void operator()(void* memory) const noexcept;
};
using Memory = std::unique_ptr<void, FreeDeleter>;

/// What the parts of one CPU device share. Thread-safe.
class Core {
 public:
  explicit Core(CpuOptions device_options);

  [[nodiscard]] std::shared_ptr<StreamQueue> add_stream(const std::string& name);
  /// Counts a wait that matters; true if a test wants this one left out.
  [[nodiscard]] bool drops_wait();

  /// Aligned memory for a buffer. Throws Error if there is not enough.
  [[nodiscard]] Memory allocate(size_t num_bytes, const std::string& name);
  /// Frees `memory` once all commands that are enqueued now are done, since they may use it.
  void retire(Memory memory, size_t num_bytes);
  /// Frees what is no longer in use.
  void sweep();

  void capture_begins(const std::string& stream);
  void capture_ends(const std::string& stream);
  /// Throws Error if some stream is capturing, for work of a stream that is not. It would run at once, which
  /// nobody who captures a step can mean. where, what: start of the message.
  void check_no_capture(std::string_view where, std::string_view what) const;

  /// The host is about to look for a result.
  void hurry() const {
    if (random != nullptr) random->hurry();
  }

  const CpuOptions options;
  Health health;
  BufferTable buffers;
  OrderCheck order{kChecked};
  HelperPool helpers;
  CpuContext context;
  OpRunner runner;
  TaskThreads threads;
  const std::unique_ptr<RandomExecutor> random;  // null: each stream has a thread
  std::atomic<int64_t> num_waits{0};
  std::atomic<size_t> allocated_bytes{0};

 private:
  struct Retired {
    Memory memory;
    size_t num_bytes;
    std::vector<std::pair<std::shared_ptr<StreamQueue>, uint64_t>>
        users;  // and the position that ends the use
  };

  [[nodiscard]] std::vector<std::shared_ptr<StreamQueue>> streams() const;

  std::atomic<size_t> num_captures_{0};

  mutable std::mutex mutex_;
  std::vector<std::string> capturing_;  // streams that began a capture
  std::vector<std::weak_ptr<StreamQueue>> streams_;
  uint32_t num_streams_ = 0;
  std::list<Retired> retired_;
};

}  // namespace weft::device::cpu
