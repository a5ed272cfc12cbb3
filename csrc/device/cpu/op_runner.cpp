#include "device/cpu/op_runner.h"

#include <exception>

#include "base/error.h"

namespace weft::device::cpu {

void OpRunner::run(const Command& op, const std::string& stream_name) {
  if (health_.failed().load(std::memory_order_relaxed)) return;
  std::string what;
  try {
    op.trampoline(op.fn, op.args(), context_);
    return;
  } catch (const std::exception& error) {
    what = error.what();
  } catch (...) {
    what = "an exception that is not a std::exception";
  }
  health_.fail(fmt::format("{} {} op '{}': {}", device_name_, stream_name, op.name, what));
}

}  // namespace weft::device::cpu
