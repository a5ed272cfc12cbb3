#pragma once

#include <memory>
#include <string>
#include <utility>

#include "device/cuda/cuda_capture.h"
#include "device/cuda/cuda_core.h"

namespace weft::device::cuda {

/// Where an event was last recorded.
struct EventRecord {
  std::string stream = {};                // its name
  cudaStream_t handle = nullptr;          // to recognise the stream; null: never recorded
  std::shared_ptr<Capture> capture = {};  // null: not in a capture
  size_t lane = 0;
  size_t mark = 0;
  uint64_t position = 0;
  Clock clock = {};
};

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(std::shared_ptr<Core> core)
      : core_(std::move(core)), handle_(make_event_handle(false)) {}

  [[nodiscard]] bool query() const override;
  void wait_idle(std::chrono::milliseconds timeout) override;

  [[nodiscard]] const Core* core() const { return core_.get(); }
  [[nodiscard]] cudaEvent_t handle() const { return handle_.get(); }
  [[nodiscard]] const EventRecord& last_record() const { return record_; }
  void set_record(EventRecord record) { record_ = std::move(record); }

 private:
  void check_on_host(const char* what) const;

  std::shared_ptr<Core> core_;
  EventHandle handle_;
  EventRecord record_;
};

}  // namespace weft::device::cuda
