#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device/cpu/command.h"
#include "device/cpu/health.h"

namespace weft::device::cpu {

/// Runs ops of one device, on any thread. After a failure ops are skipped, so that queues still drain.
class OpRunner {
 public:
  OpRunner(std::string device_name, Health& health, ExecContext& context)
      : device_name_(std::move(device_name)), health_(health), context_(context) {}

  /// What the op throws becomes the device's failure: "<device> <stream> op '<name>': <what>".
  void run(const Command& op, const std::string& stream_name);

  void start_trace();
  [[nodiscard]] std::vector<OpSpan> take_trace();

 private:
  const std::string device_name_;
  Health& health_;
  ExecContext& context_;
  std::atomic<bool> tracing_{false};
  std::mutex trace_mutex_;
  std::vector<OpSpan> spans_;
};

}  // namespace weft::device::cpu
