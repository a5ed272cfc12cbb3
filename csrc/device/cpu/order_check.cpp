#include "device/cpu/order_check.h"

namespace weft::device::cpu {

void OrderCheck::add_stream(const std::string& name) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  history_.add_agent(name);
}

void OrderCheck::add(uint32_t stream, uint64_t position, Clock& clock,
                     const std::vector<BufferAccess>& accesses, std::string_view where) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  join(clock, host_);
  for (const BufferAccess& access : accesses) history_.add(stream, position, clock, access, where);
  history_.prune(host_);
}

Clock OrderCheck::snapshot(uint32_t stream, uint64_t position, const Clock& clock) const {
  Clock result;
  if (!enabled_) return result;
  result = clock;
  advance(result, stream, position);
  return result;
}

void OrderCheck::host_saw(const Clock& clock) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  join(host_, clock);
}

std::string OrderCheck::destroy(const BufferRecord& buffer) {
  if (!enabled_) return {};
  const std::lock_guard lock(mutex_);
  const std::string use = history_.find_unseen(buffer, host_);
  history_.forget(buffer);
  return use;
}

}  // namespace weft::device::cpu
