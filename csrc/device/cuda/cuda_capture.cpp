#include "device/cuda/cuda_capture.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "device/stream_checks.h"

namespace weft::device::cuda {

Capture::Capture(const std::string& origin, const void** progress) : graph_(std::make_shared<GraphState>()) {
  add_lane(origin, progress);
}

void Capture::spoil(const std::string& reason) {
  if (spoilt_.empty()) spoilt_ = reason;
}

size_t Capture::add_lane(const std::string& stream_name, const void** progress) {
  graph_->lanes.push_back(stream_name);
  graph_->progress.push_back(progress);
  clocks_.emplace_back();
  positions_.push_back(0);
  last_op_.push_back(0);
  return clocks_.size() - 1;
}

void Capture::add_op(size_t lane, const Op& op, const OpName* name) {
  CapturedCall call{.type = CapturedCall::Type::kOp,
                    .lane = lane,
                    .name = name,
                    .op = op.name,
                    .tag = op.tag,
                    .kind = op.kind,
                    .trampoline = op.trampoline,
                    .fn = op.fn,
                    .args_begin = graph_->args.size(),
                    .stamp = op.stamp};
  graph_->args.resize(call.args_begin + ceil_div(op.args_bytes, sizeof(std::max_align_t)));
  if (op.args_bytes != 0) std::memcpy(graph_->args.data() + call.args_begin, op.args, op.args_bytes);
  graph_->calls.push_back(call);
  ++graph_->num_ops;
  last_op_[lane] = ++positions_[lane];
  advance(clocks_[lane], lane, last_op_[lane]);
}

void Capture::add_buffer(const std::shared_ptr<BufferRecord>& buffer) {
  if (buffers_.insert(buffer.get()).second) graph_->buffers.push_back(buffer);
}

size_t Capture::add_record(size_t lane) {
  graph_->calls.push_back({.type = CapturedCall::Type::kRecord, .lane = lane, .mark = graph_->num_marks});
  return graph_->num_marks++;
}

void Capture::add_wait(size_t lane, size_t mark, size_t target, uint64_t position, const Clock& clock) {
  graph_->calls.push_back({.type = CapturedCall::Type::kWait, .lane = lane, .mark = mark});
  advance(clocks_[lane], target, position);
  join(clocks_[lane], clock);
}

std::shared_ptr<GraphState> Capture::finish() {
  active_ = false;
  WEFT_CHECK(spoilt_.empty(), "end_capture: {}", spoilt_);
  for (size_t lane = 1; lane < last_op_.size(); ++lane) {
    check_joined_back(clock_at(clocks_[0], lane) >= last_op_[lane], graph_->lanes[lane], graph_->lanes[0]);
  }
  return std::exchange(graph_, nullptr);
}

}  // namespace weft::device::cuda
