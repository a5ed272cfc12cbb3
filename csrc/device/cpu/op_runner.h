#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device/cpu/command.h"
#include "device/health.h"

namespace weft::device::cpu {

/// Runs ops of one device, on any thread. After a failure ops are skipped, so that queues still drain.
class OpRunner {
 public:
  /// fail_op: CpuOptions::fail_op.
  OpRunner(std::string device_name, Health& health, ExecContext& context, int64_t fail_op)
      : device_name_(std::move(device_name)), health_(health), context_(context), fail_op_(fail_op) {}

  /// What the op throws becomes the device's failure: "<device> <stream> op '<name>': <what>".
  void run(const Command& op, const std::string& stream_name);

  [[nodiscard]] int64_t num_ops() const { return num_ops_.load(std::memory_order_relaxed); }
  void start_trace();
  [[nodiscard]] std::vector<OpSpan> take_trace();

 private:
  const std::string device_name_;
  Health& health_;
  ExecContext& context_;
  const int64_t fail_op_;
  std::atomic<int64_t> num_ops_{0};
  std::atomic<bool> tracing_{false};
  std::mutex trace_mutex_;
  std::vector<OpSpan> spans_;
};

}  // namespace weft::device::cpu
