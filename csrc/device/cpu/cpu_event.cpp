#include "device/cpu/cpu_event.h"

#include "base/error.h"
#include "device/stream_checks.h"

namespace weft::device::cpu {

void CpuEvent::check_on_host(const char* what) const {
  check_not_captured(what, record_.capture != nullptr,
                     record_.stream == nullptr ? std::string_view() : record_.stream->name());
}

bool CpuEvent::query() const {
  check_on_host("Event::query");
  core_->health.check();
  if (record_.stream == nullptr) return true;
  core_->hurry();
  if (record_.stream->progress().completed() < record_.position) return false;
  core_->order.host_saw(record_.clock);
  return true;
}

void CpuEvent::wait_idle(std::chrono::milliseconds timeout) {
  check_on_host("Event::wait_idle");
  core_->health.check();
  if (record_.stream == nullptr) return;
  wait_on_host(*core_, *record_.stream, record_.position, timeout, "an event");
  core_->order.host_saw(record_.clock);
}

void wait_on_host(Core& core, StreamQueue& stream, uint64_t position, std::chrono::milliseconds timeout,
                  const char* what) {
  core.hurry();
  const bool in_time = stream.progress().wait_for(position, timeout, core.health.failed());
  core.health.check();
  WEFT_CHECK(in_time, "{} {}: waited {} ms for {}; the stream is in {}", core.options.name, stream.name(),
             timeout.count(), what, stream.where());
}

}  // namespace weft::device::cpu
