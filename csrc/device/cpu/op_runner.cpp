#include "device/cpu/op_runner.h"

#include <chrono>
#include <exception>

#include "base/error.h"

namespace weft::device::cpu {
namespace {

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                               std::chrono::nanoseconds(1));
}

}  // namespace

void OpRunner::start_trace() {
  const std::lock_guard lock(trace_mutex_);
  spans_.clear();
  tracing_.store(true, std::memory_order_relaxed);
}

std::vector<OpSpan> OpRunner::take_trace() {
  const std::lock_guard lock(trace_mutex_);
  tracing_.store(false, std::memory_order_relaxed);
  return std::exchange(spans_, {});
}

void OpRunner::run(const Command& op, const std::string& stream_name) {
  if (health_.failed().load(std::memory_order_relaxed)) return;
  std::string what;
  try {
    const int64_t index = num_ops_.fetch_add(1, std::memory_order_relaxed);
    if (index == fail_op_) WEFT_THROW("op {} was told to fail", index);
    if (op.stamp != nullptr) *op.stamp = now_ns();
    if (!tracing_.load(std::memory_order_relaxed)) {
      op.trampoline(op.fn, op.args(), context_);
      return;
    }
    const double start = now_us();
    op.trampoline(op.fn, op.args(), context_);
    const std::lock_guard lock(trace_mutex_);
    spans_.push_back({stream_name, op.name, op.tag, start, now_us(), op.kind});
    return;
  } catch (const std::exception& error) {
    what = error.what();
  } catch (...) {
    what = "an exception that is not a std::exception";
  }
  health_.fail(fmt::format("{} {} op '{}': {}", device_name_, stream_name, op.name, what));
}

}  // namespace weft::device::cpu
