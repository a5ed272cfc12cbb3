#include "device/cpu/capture.h"

#include <utility>

#include "base/error.h"
#include "device/stream_checks.h"

namespace weft::device::cpu {

Capture::Capture(const std::string& origin) : graph_(std::make_shared<GraphState>()) { add_lane(origin); }

void Capture::spoil(const std::string& reason) {
  if (spoilt_.empty()) spoilt_ = reason;
}

size_t Capture::add_lane(const std::string& stream_name) {
  auto lane = std::make_unique<GraphLane>();
  lane->stream_name = stream_name;
  lane->graph = graph_.get();
  graph_->lanes.push_back(std::move(lane));
  clocks_.emplace_back();
  last_op_.push_back(0);
  history_.add_agent(stream_name);
  return clocks_.size() - 1;
}

void Capture::add_op(size_t lane, const Op& op, const std::vector<BufferAccess>& accesses,
                     std::string_view where) {
  if constexpr (kChecked) {
    for (const BufferAccess& access : accesses) {
      history_.add(static_cast<uint32_t>(lane), position(lane) + 1, clocks_[lane], access, where);
    }
    accesses_.insert(accesses_.end(), accesses.begin(), accesses.end());
  }
  graph_->lanes[lane]->commands.push(make_command(op), op.args, op.args_bytes);
  graph_->op_names.emplace_back(op.name);
  last_op_[lane] = position(lane);
  advance(clocks_[lane], lane, last_op_[lane]);
  for (const BufferAccess& access : accesses) {
    if (buffers_.insert(access.buffer.get()).second) graph_->buffers.push_back(access.buffer);
  }
}

void Capture::add_wait(size_t lane, size_t target, uint64_t target_position, const Clock& clock) {
  // An edge that others imply already would only cost at each replay.
  if (clock_at(clocks_[lane], target) < target_position) {
    Command command;
    command.type = Command::Type::kWait;
    command.ref = static_cast<uint32_t>(target);
    command.position = target_position;
    graph_->lanes[lane]->commands.push(command);
  }
  join(clocks_[lane], clock);
}

std::shared_ptr<GraphState> Capture::finish() {
  active_ = false;
  WEFT_CHECK(spoilt_.empty(), "end_capture: {}", spoilt_);
  for (size_t lane = 1; lane < last_op_.size(); ++lane) {
    check_joined_back(clock_at(clocks_[0], lane) >= last_op_[lane], graph_->lanes[lane]->stream_name,
                      graph_->lanes[0]->stream_name);
  }
  graph_->accesses = coalesce(std::move(accesses_));
  return std::exchange(graph_, nullptr);
}

}  // namespace weft::device::cpu
