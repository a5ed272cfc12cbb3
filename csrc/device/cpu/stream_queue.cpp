#include "device/cpu/stream_queue.h"

#include <utility>

#include "base/error.h"
#include "device/cpu/graph_state.h"

namespace weft::device::cpu {

StreamQueue::StreamQueue(std::string name, uint32_t id, std::function<void()> on_push)
    : name_(std::move(name)), id_(id), on_push_(std::move(on_push)) {}

std::string StreamQueue::where() const {
  // The block that holds the current command is only recycled under the lock.
  const std::lock_guard lock(mutex_);
  const Command* command = current_.load(std::memory_order_acquire);
  if (command == nullptr) return "no op";
  switch (command->type) {
    case Command::Type::kOp:
      return fmt::format("op '{}'", command->name);
    case Command::Type::kWait:
      return fmt::format("a wait for stream '{}'", running_.waits[command->ref]->name());
    case Command::Type::kReplay:
      return running_.graphs[command->ref]->where();
  }
  return "?";
}

void StreamQueue::push_op(const Op& op) {
  std::unique_lock lock(mutex_);
  pending_.push(make_command(op), op.args, op.args_bytes);
  pushed(std::move(lock));
}

void StreamQueue::push_wait(std::shared_ptr<StreamQueue> target, uint64_t position) {
  Command command;
  command.type = Command::Type::kWait;
  command.position = position;
  std::unique_lock lock(mutex_);
  command.ref = static_cast<uint32_t>(pending_.waits.size());
  pending_.waits.push_back(std::move(target));
  pending_.push(command);
  pushed(std::move(lock));
}

void StreamQueue::push_replay(std::shared_ptr<GraphState> graph, uint64_t run) {
  Command command;
  command.type = Command::Type::kReplay;
  command.position = run;
  std::unique_lock lock(mutex_);
  command.ref = static_cast<uint32_t>(pending_.graphs.size());
  pending_.graphs.push_back(std::move(graph));
  pending_.push(command);
  pushed(std::move(lock));
}

void StreamQueue::pushed(std::unique_lock<std::mutex> lock) {
  num_pushed_.fetch_add(1);
  const bool sleeping = std::exchange(sleeping_, false);
  lock.unlock();
  if (sleeping) pushed_.notify_one();
  if (on_push_) on_push_();
}

void StreamQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  pushed_.notify_one();
}

void StreamQueue::release() {
  const std::lock_guard lock(mutex_);
  running_.clear();
  cursor_ = 0;
}

const Command* StreamQueue::next(bool block) {
  if (cursor_ == running_.num_bytes()) {
    std::unique_lock lock(mutex_);
    if (block) {
      pushed_.wait(lock, [&] {
        sleeping_ = pending_.count() == 0 && !closed_;
        return !sleeping_;
      });
    }
    if (pending_.count() == 0) return nullptr;
    running_.clear();
    std::swap(pending_, running_);
    cursor_ = 0;
  }
  const Command* command = running_.at(cursor_);
  current_.store(command, std::memory_order_release);
  return command;
}

void StreamQueue::done() {
  cursor_ += running_.at(cursor_)->num_bytes;
  // Cleared before the end is told: a host that saw the end may ask `where`.
  if (cursor_ == running_.num_bytes()) current_.store(nullptr, std::memory_order_release);
  progress_.publish(progress_.completed() + 1);
}

}  // namespace weft::device::cpu
