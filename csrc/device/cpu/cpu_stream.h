#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "device/cpu/capture.h"
#include "device/cpu/core.h"
#include "device/cpu/cpu_event.h"

namespace weft::device::cpu {

class CpuGraph final : public Graph {
 public:
  CpuGraph(std::shared_ptr<Core> core, std::shared_ptr<GraphState> state);
  [[nodiscard]] size_t num_ops() const override { return state_->op_names.size(); }
  [[nodiscard]] std::vector<std::string> op_names() const override { return state_->op_names; }

  [[nodiscard]] const Core* core() const { return core_.get(); }
  [[nodiscard]] const std::shared_ptr<GraphState>& state() const { return state_; }
  /// Throws Error naming a buffer that the graph uses and that was destroyed.
  void check_buffers();

 private:
  std::shared_ptr<Core> core_;
  std::shared_ptr<GraphState> state_;
  std::atomic<uint64_t> checked_at_{~uint64_t{0}};  // buffers destroyed when they were last all alive
};

/// The host's side of a stream, and the thread that runs it.
class CpuStream final : public Stream {
 public:
  CpuStream(Device& device, std::shared_ptr<Core> core, const std::string& name);
  ~CpuStream() override;  // waits for what is enqueued

  [[nodiscard]] Device& device() const override { return device_; }
  [[nodiscard]] const std::string& name() const override { return queue_->name(); }
  void enqueue(const Op& op) override;
  void record(Event& event) override;
  void wait(Event& event) override;
  void begin_capture() override;
  [[nodiscard]] std::unique_ptr<Graph> end_capture() override;
  [[nodiscard]] bool is_capturing() const override { return capture_ != nullptr && capture_->active(); }
  void replay(Graph& graph) override;
  void wait_idle(std::chrono::milliseconds timeout) override;
  void copy(void* dst, const void* src, size_t num_bytes) override;
  void fill(void* dst, uint8_t value, size_t num_bytes) override;

 private:
  /// What all that is enqueued stands for.
  [[nodiscard]] Clock end_clock() const;
  void run();  // on thread_

  Device& device_;
  std::shared_ptr<Core> core_;
  std::shared_ptr<StreamQueue> queue_;
  std::string where_;  // "<device> <stream>", starts messages
  BufferCache cache_;
  std::vector<BufferAccess> accesses_;  // of the op that is being enqueued; kept for its memory
  Clock clock_;                         // what the next op follows; checked builds only

  std::shared_ptr<Capture> capture_;  // the last one; may have ended
  size_t lane_ = 0;                   // in capture_
  bool began_capture_ = false;

  std::thread thread_;  // none in random order
};

}  // namespace weft::device::cpu
