#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "device/cuda/cuda_capture.h"
#include "device/cuda/cuda_core.h"
#include "device/cuda/cuda_event.h"

namespace weft::device::cuda {

class CudaGraph final : public Graph {
 public:
  CudaGraph(std::shared_ptr<Core> core, std::shared_ptr<GraphState> state);
  ~CudaGraph() override;

  [[nodiscard]] size_t num_ops() const override { return state_->num_ops; }
  [[nodiscard]] std::vector<std::string> op_names() const override;

  [[nodiscard]] const Core* core() const { return core_.get(); }
  [[nodiscard]] const std::shared_ptr<GraphState>& state() const { return state_; }
  /// Throws Error, naming the buffer, if one that the graph uses was destroyed.
  void check_buffers();

 private:
  std::shared_ptr<Core> core_;
  std::shared_ptr<GraphState> state_;
  uint64_t checked_at_ = ~uint64_t{0};
};

class CudaStream final : public Stream {
 public:
  CudaStream(Device& device, std::shared_ptr<Core> core, std::string name);
  ~CudaStream() override;

  [[nodiscard]] Device& device() const override { return device_; }
  [[nodiscard]] const std::string& name() const override { return name_; }
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
  [[nodiscard]] const OpName* intern(std::string_view op);
  /// Counts an op. True if a test wants it to fail; if it wants it held, that is done.
  [[nodiscard]] bool fails_now(std::string_view lane, std::string_view op, CudaContext& context);
  /// The next kernel begins when all before it has ended: it stands behind something that is no kernel.
  void end_overlap() { tail_.after_kernel = false; }
  void run_op_by_op(const GraphState& graph);

  Device& device_;
  std::shared_ptr<Core> core_;
  const std::string name_;
  const std::string where_;
  StreamHandle handle_;
  EventHandle idle_;
  StreamTail tail_;
  const void** progress_;
  BufferCache cache_;
  std::unordered_map<const char*, const OpName*> names_;  // by address of static text
  std::shared_ptr<Capture> capture_;
  size_t lane_ = 0;
  bool began_capture_ = false;
  std::shared_ptr<GraphState> last_replay_;  // for messages
};

}  // namespace weft::device::cuda
