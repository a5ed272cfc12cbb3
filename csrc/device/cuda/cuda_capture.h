#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "device/buffer_table.h"
#include "device/clock.h"
#include "device/cuda/cuda_api.h"
#include "device/cuda/cuda_core.h"
#include "device/device.h"

namespace weft::device::cuda {

/// One captured call, kept so that a replay can also run op by op (while a trace runs).
struct CapturedCall {
  enum class Type : uint8_t { kOp, kRecord, kWait };
  Type type = Type::kOp;
  size_t lane = 0;
  size_t mark = 0;  // kRecord, kWait: which event
  const OpName* name = nullptr;
  std::string_view op = {};  // static text
  int32_t tag = -1;
  OpKind kind = OpKind::kCompute;
  void (*trampoline)(void (*fn)(), const void* args, ExecContext& context) = nullptr;
  void (*fn)() = nullptr;
  size_t args_begin = 0;  // in GraphState::args
  uint64_t* stamp = nullptr;
};

/// What a replay needs.
struct GraphState {
  GraphExecHandle exec;
  std::vector<std::string> lanes;  // streams' names; [0] began the capture
  std::vector<const void**> progress;
  std::vector<CapturedCall> calls;  // in capture order
  std::vector<std::max_align_t> args;
  size_t num_marks = 0;
  size_t num_ops = 0;
  std::vector<std::shared_ptr<const BufferRecord>> buffers;

  [[nodiscard]] const void* args_of(const CapturedCall& call) const { return args.data() + call.args_begin; }
};

/// The host's view of a capture: which streams take part, and what each is known to follow. CUDA keeps the
/// same books, but tells little of what is wrong.
class Capture {
 public:
  explicit Capture(const std::string& origin, const void** progress);

  [[nodiscard]] bool active() const { return active_; }
  void spoil(const std::string& reason);
  void abandon() { active_ = false; }

  /// A stream joins; returns its lane.
  size_t add_lane(const std::string& stream_name, const void** progress);
  void add_op(size_t lane, const Op& op, const OpName* name);
  void add_buffer(const std::shared_ptr<BufferRecord>& buffer);
  /// Returns the mark that waits refer to.
  size_t add_record(size_t lane);
  /// Lane `lane` waits for `mark`, which stands at `position` of lane `target`, and for all of `clock`.
  void add_wait(size_t lane, size_t mark, size_t target, uint64_t position, const Clock& clock);
  [[nodiscard]] uint64_t position(size_t lane) const { return positions_[lane]; }
  [[nodiscard]] const Clock& clock(size_t lane) const { return clocks_[lane]; }
  /// A stream that was destroyed inside the capture lives until its end.
  void keep(StreamHandle stream) { kept_.push_back(std::move(stream)); }

  /// Ends it. Throws Error if it is spoilt or a lane was not joined back.
  [[nodiscard]] std::shared_ptr<GraphState> finish();

 private:
  std::shared_ptr<GraphState> graph_;
  std::vector<Clock> clocks_;        // by lane
  std::vector<uint64_t> positions_;  // by lane: calls so far
  std::vector<uint64_t> last_op_;    // by lane: the position behind its last op
  std::set<const BufferRecord*> buffers_;
  std::vector<StreamHandle> kept_;
  std::string spoilt_;
  bool active_ = true;
};

}  // namespace weft::device::cuda
