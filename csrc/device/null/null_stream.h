#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/null/core.h"

namespace weft::device::null {

/// Where an event was recorded last.
struct Record {
  bool set = false;
  std::shared_ptr<Capture> capture;  // null: outside of any
  uint32_t lane = 0;                 // stream, or lane of the capture
  uint64_t mark = 0;
  Clock clock;
};

class NullEvent final : public Event {
 public:
  explicit NullEvent(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  [[nodiscard]] const Core* core() const { return core_.get(); }
  [[nodiscard]] bool query() const override;
  void wait_idle(std::chrono::milliseconds timeout) override;

  Record record;
  bool awaited = false;  // by a stream, at any time

 private:
  void check_not_captured() const;
  [[nodiscard]] bool reached() const;

  const std::shared_ptr<Core> core_;
};

class NullGraph final : public device::Graph {
 public:
  NullGraph(std::shared_ptr<Core> core, std::shared_ptr<Recording> captured)
      : graph(std::move(captured)), core_(std::move(core)) {}
  [[nodiscard]] const Core* core() const { return core_.get(); }
  [[nodiscard]] size_t num_ops() const override { return graph->op_names.size(); }
  [[nodiscard]] std::vector<std::string> op_names() const override {
    return {graph->op_names.begin(), graph->op_names.end()};
  }

  const std::shared_ptr<Recording> graph;
  uint64_t checked_at = 0;  // BufferTable::num_removed() when all its buffers were alive

 private:
  const std::shared_ptr<Core> core_;
};

class NullStream final : public Stream {
 public:
  NullStream(Device& device, std::shared_ptr<Core> core, const std::string& name);
  ~NullStream() override;

  [[nodiscard]] Device& device() const override { return device_; }
  [[nodiscard]] const std::string& name() const override { return queue_->name; }
  void enqueue(const Op& op) override;
  void record(Event& event) override;
  void wait(Event& event) override;
  void begin_capture() override;
  [[nodiscard]] std::unique_ptr<device::Graph> end_capture() override;
  [[nodiscard]] bool is_capturing() const override { return capture_ != nullptr && capture_->active; }
  void replay(device::Graph& graph) override;
  void wait_idle(std::chrono::milliseconds timeout) override;
  void copy(void* dst, const void* src, size_t num_bytes) override;
  void fill(void* dst, uint8_t value, size_t num_bytes) override;

 private:
  [[nodiscard]] Script& script() { return is_capturing() ? *capture_->graph->lanes[lane_] : queue_->script; }
  void check_no_capture(std::string_view what) const;
  void note_accesses(const Op& op);
  /// What the stream is known to follow up to now, itself included.
  [[nodiscard]] Clock end_clock() const;

  Device& device_;
  std::shared_ptr<Core> core_;
  uint32_t id_;
  std::shared_ptr<Queue> queue_;
  std::string where_;
  BufferCache cache_;
  uint64_t num_pushed_ = 0;  // ops and replays outside of captures
  Clock clock_;              // of other streams; only if order is checked
  std::vector<BufferAccess> accesses_;
  std::shared_ptr<Capture> capture_;
  size_t lane_ = 0;
};

}  // namespace weft::device::null
