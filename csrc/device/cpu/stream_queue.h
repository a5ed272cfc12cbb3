#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "device/cpu/command.h"
#include "device/cpu/progress.h"

namespace weft::device::cpu {

/// The commands of one stream, between the host that pushes and the one thread that runs them.
///
/// The host appends to one block while the runner works through another; they swap when the runner has none
/// left, so that a push is a short lock and a memcpy.
class StreamQueue {
 public:
  /// on_push: called after each push, for an executor that does not block in `next`; may be empty.
  StreamQueue(std::string name, uint32_t id, std::function<void()> on_push);

  [[nodiscard]] const std::string& name() const { return name_; }
  /// Counts the device's streams in order of creation.
  [[nodiscard]] uint32_t id() const { return id_; }
  [[nodiscard]] Progress& progress() { return progress_; }
  /// Commands pushed so far: the position that the progress must reach for the stream to be empty.
  [[nodiscard]] uint64_t num_pushed() const { return num_pushed_.load(); }
  /// What the runner is in, for messages: "op 'x'", "a wait for stream 'y'", ...
  [[nodiscard]] std::string where() const;

  void push_op(const Op& op);
  void push_wait(std::shared_ptr<StreamQueue> target, uint64_t position);
  void push_replay(std::shared_ptr<GraphState> graph, uint64_t run);
  /// After this `next` returns null once the queue is empty.
  void close();
  /// After the runner has stopped: lets go of the streams and graphs that the last commands referred to,
  /// which may refer back.
  void release();

  /// For the runner: the command to run now. Null if there is none; with `block`, only after close().
  [[nodiscard]] const Command* next(bool block);
  /// For the runner: the command of `next` is done.
  void done();
  [[nodiscard]] StreamQueue& wait_target(const Command& command) { return *running_.waits[command.ref]; }
  [[nodiscard]] const std::shared_ptr<GraphState>& graph(const Command& command) {
    return running_.graphs[command.ref];
  }

 private:
  void pushed(std::unique_lock<std::mutex> lock);

  const std::string name_;
  const uint32_t id_;
  const std::function<void()> on_push_;
  Progress progress_;
  std::atomic<uint64_t> num_pushed_{0};

  mutable std::mutex mutex_;  // guards what follows; the runner reads running_ without it between swaps
  std::condition_variable pushed_;
  CommandList pending_;
  CommandList running_;
  bool sleeping_ = false;
  bool closed_ = false;

  size_t cursor_ = 0;  // runner only
  std::atomic<const Command*> current_{nullptr};
};

}  // namespace weft::device::cpu
