#include "device/cpu/random_executor.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace weft::device::cpu {
namespace {

constexpr std::chrono::microseconds kPatience{300};  // how long the device lags behind a host that pushes

}  // namespace

RandomExecutor::RandomExecutor(uint64_t seed, OpRunner& runner, TaskThreads& threads)
    : runner_(runner), threads_(threads), random_(seed) {
  // Even mixes and long runs of one stream find different mistakes.
  constexpr uint64_t kStickiness[] = {0, 50, 90, 98};
  stickiness_ = kStickiness[random_() % std::size(kStickiness)];
  thread_ = std::thread([this] { loop(); });
}

RandomExecutor::~RandomExecutor() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void RandomExecutor::add(std::shared_ptr<StreamQueue> queue) {
  const std::lock_guard lock(mutex_);
  StreamRun& stream = streams_.emplace_back();
  stream.sequence->executor = this;
  stream.sequence->stream_name = queue->name();
  stream.queue = std::move(queue);
}

void RandomExecutor::remove(const std::shared_ptr<StreamQueue>& queue) {
  hurry();
  queue->progress().wait(queue->num_pushed());
  const std::lock_guard lock(mutex_);
  streams_.remove_if([&](const StreamRun& stream) { return stream.queue == queue; });
}

void RandomExecutor::notify() {
  {
    const std::lock_guard lock(mutex_);
    last_push_ = std::chrono::steady_clock::now();
    changed_since_look_ = true;
  }
  changed_.notify_all();
}

void RandomExecutor::hurry() {
  {
    const std::lock_guard lock(mutex_);
    hurried_ = true;
    changed_since_look_ = true;
  }
  changed_.notify_all();
}

void RandomExecutor::Sequence::run() {
  executor->runner_.run(*command, stream_name);
  // Notified under the lock: once it is free the executor may go.
  const std::lock_guard lock(executor->mutex_);
  done = true;
  executor->changed_since_look_ = true;
  executor->changed_.notify_all();
}

void RandomExecutor::loop() {
  std::unique_lock lock(mutex_);
  while (!closed_) {
    changed_since_look_ = false;
    const std::vector<Choice> choices = collect();
    if (choices.empty()) {
      hurried_ = false;  // all that the host asked for is done, or waits for other ranks
      changed_.wait(lock, [&] { return changed_since_look_ || closed_; });
      continue;
    }
    const auto ready = last_push_ + kPatience;
    if (!hurried_ && std::chrono::steady_clock::now() < ready) {
      changed_.wait_until(lock, ready, [&] { return changed_since_look_ || closed_; });
      continue;
    }
    const Choice choice = choose(choices);
    last_ = choice.sequence;
    if (choice.sequence->command->kind == OpKind::kCollective) {
      choice.sequence->busy = true;
      threads_.run(choice.lane != nullptr ? choice.lane->sequence : choice.stream->sequence);
      continue;
    }
    lock.unlock();
    runner_.run(*choice.sequence->command, choice.sequence->stream_name);
    lock.lock();
    finish(choice);
  }
}

const RandomExecutor::Choice& RandomExecutor::choose(const std::vector<Choice>& choices) {
  const auto again = std::find_if(choices.begin(), choices.end(),
                                  [&](const Choice& choice) { return choice.sequence == last_; });
  if (again != choices.end() && random_() % 100 < stickiness_) return *again;
  return choices[random_() % choices.size()];
}

void RandomExecutor::finish(const Choice& choice) {
  choice.sequence->busy = false;
  choice.sequence->done = false;
  if (choice.lane == nullptr) return choice.stream->queue->done();
  choice.lane->offset += choice.sequence->command->num_bytes;
  ++choice.lane->position;
}

std::vector<RandomExecutor::Choice> RandomExecutor::collect() {
  std::vector<Choice> choices;
  bool changed = true;
  while (changed) {  // what one stream goes past may free another
    changed = false;
    choices.clear();
    for (StreamRun& stream : streams_) changed |= collect_stream(stream, choices);
  }
  return choices;
}

bool RandomExecutor::collect_stream(StreamRun& stream, std::vector<Choice>& choices) {
  bool changed = false;
  Sequence& sequence = *stream.sequence;
  while (true) {
    if (sequence.busy) {
      if (!sequence.done) return changed;
      finish({&sequence, &stream, nullptr});
      changed = true;
    }
    const Command* command = stream.queue->next(false);
    if (command == nullptr) return changed;
    if (command->type == Command::Type::kOp) {
      sequence.command = command;
      choices.push_back({&sequence, &stream, nullptr});
      return changed;
    }
    if (command->type == Command::Type::kWait) {
      if (stream.queue->wait_target(*command).progress().completed() < command->position) return changed;
    } else {
      changed |= collect_graph(stream, *command, choices);
      if (stream.replaying) return changed;
      if (stream.queue->graph(*command)->finished.completed() <= command->position) return changed;
    }
    stream.queue->done();
    changed = true;
  }
}

bool RandomExecutor::collect_graph(StreamRun& stream, const Command& command, std::vector<Choice>& choices) {
  GraphState& graph = *stream.queue->graph(command);
  const uint64_t run = command.position;
  if (!stream.replaying) {
    if (graph.finished.completed() != run) return false;  // an earlier run of it, on another stream
    stream.replaying = true;
    stream.lanes.clear();
    for (const auto& lane : graph.lanes) {
      LaneRun& lane_run = stream.lanes.emplace_back();
      lane_run.sequence->executor = this;
      lane_run.sequence->stream_name = lane->stream_name;
    }
  }
  bool changed = false;
  bool finished = true;
  const size_t num_choices = choices.size();
  for (size_t i = 0; i < stream.lanes.size(); ++i) {
    LaneRun& lane = stream.lanes[i];
    Sequence& sequence = *lane.sequence;
    const CommandList& commands = graph.lanes[i]->commands;
    if (sequence.busy) {
      if (!sequence.done) {
        finished = false;
        continue;
      }
      finish({&sequence, &stream, &lane});
      changed = true;
    }
    while (lane.offset < commands.num_bytes()) {
      const Command& next = *commands.at(lane.offset);
      graph.lanes[i]->current.store(&next, std::memory_order_release);
      if (next.type == Command::Type::kOp) {
        sequence.command = &next;
        choices.push_back({&sequence, &stream, &lane});
        break;
      }
      if (stream.lanes[next.ref].position < next.position) break;
      lane.offset += next.num_bytes;
      ++lane.position;
      changed = true;
    }
    finished &= lane.offset == commands.num_bytes();
  }
  if (!finished) return changed;
  for (const auto& lane : graph.lanes) lane->current.store(nullptr, std::memory_order_release);
  choices.resize(num_choices);
  stream.replaying = false;
  graph.finished.publish(run + 1);
  return true;
}

}  // namespace weft::device::cpu
