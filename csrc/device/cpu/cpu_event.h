#pragma once

#include <memory>

#include "device/cpu/capture.h"
#include "device/cpu/core.h"

namespace weft::device::cpu {

/// Where an event was last recorded: a position in a stream, or in a lane of a capture.
struct EventRecord {
  std::shared_ptr<StreamQueue> stream;  // null if never recorded
  uint64_t position = 0;
  std::shared_ptr<Capture> capture;  // null outside captures
  size_t lane = 0;
  Clock clock;  // what the record follows: in a capture by lane, else (checked builds only) by stream
};

class CpuEvent final : public Event {
 public:
  explicit CpuEvent(std::shared_ptr<Core> core) : core_(std::move(core)) {}

  [[nodiscard]] bool query() const override;
  void wait_idle(std::chrono::milliseconds timeout) override;

  [[nodiscard]] const Core* core() const { return core_.get(); }
  [[nodiscard]] const EventRecord& last_record() const { return record_; }
  void set_record(EventRecord record) { record_ = std::move(record); }

 private:
  void check_on_host(const char* what) const;

  std::shared_ptr<Core> core_;
  EventRecord record_;
};

/// Blocks the host until `stream` reaches `position`. Throws the device's failure, or on timeout `what` and
/// the op that the stream is in.
void wait_on_host(Core& core, StreamQueue& stream, uint64_t position, std::chrono::milliseconds timeout,
                  const char* what);

}  // namespace weft::device::cpu
