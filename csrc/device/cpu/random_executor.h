#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "device/cpu/graph_state.h"
#include "device/cpu/op_runner.h"
#include "device/cpu/stream_queue.h"
#include "device/cpu/task_threads.h"

namespace weft::device::cpu {

/// Runs all streams of a device, one op at a time, in an order drawn from a seed: any op whose stream (or
/// lane) and events allow it may be next. So what is not ordered by them comes in both orders, sooner or
/// later.
///
/// It starts only when the host waits for something, or has enqueued nothing for a while: with all ops in
/// sight the choice is wide, and of one device without collectives it depends on the seed alone. Collectives
/// wait for other ranks, so they run on threads of their own while others go on.
class RandomExecutor {
 public:
  RandomExecutor(uint64_t seed, OpRunner& runner, TaskThreads& threads);
  ~RandomExecutor();
  RandomExecutor(const RandomExecutor&) = delete;
  RandomExecutor& operator=(const RandomExecutor&) = delete;

  void add(std::shared_ptr<StreamQueue> queue);
  /// Runs what the queue still holds, then forgets it.
  void remove(const std::shared_ptr<StreamQueue>& queue);
  /// Something was pushed.
  void notify();
  /// The host asks for a result: no more waiting for other ops to choose from.
  void hurry();

 private:
  /// A list of commands that run in order: a stream's, or those of one lane of a graph's run.
  struct Sequence final : Task {
    RandomExecutor* executor = nullptr;
    const Command* command = nullptr;  // at the head; an op
    std::string stream_name;
    bool busy = false;  // in a collective
    bool done = false;  // the collective has ended
    void run() override;
  };
  struct LaneRun {
    std::shared_ptr<Sequence> sequence = std::make_shared<Sequence>();
    size_t offset = 0;
    uint64_t position = 0;
  };
  struct StreamRun {
    std::shared_ptr<StreamQueue> queue;
    std::shared_ptr<Sequence> sequence = std::make_shared<Sequence>();
    bool replaying = false;
    std::vector<LaneRun> lanes;  // of the graph that is being replayed
  };
  struct Choice {
    Sequence* sequence = nullptr;
    StreamRun* stream = nullptr;
    LaneRun* lane = nullptr;  // null: the op is the stream's own
  };

  void loop();
  /// Goes past everything that takes no time; returns the ops that may run now.
  [[nodiscard]] std::vector<Choice> collect();
  bool collect_stream(StreamRun& stream, std::vector<Choice>& choices);
  bool collect_graph(StreamRun& stream, const Command& command, std::vector<Choice>& choices);
  [[nodiscard]] const Choice& choose(const std::vector<Choice>& choices);
  static void finish(const Choice& choice);

  OpRunner& runner_;
  TaskThreads& threads_;
  std::mt19937_64 random_;
  uint64_t stickiness_;  // in 1/100: how often the last sequence goes on if it can
  const Sequence* last_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<StreamRun> streams_;
  std::chrono::steady_clock::time_point last_push_;
  bool hurried_ = false;
  bool changed_since_look_ = false;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace weft::device::cpu
