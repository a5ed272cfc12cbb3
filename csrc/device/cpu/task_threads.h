#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace weft::device::cpu {

struct Task {
  virtual ~Task() = default;
  virtual void run() = 0;
};

/// Runs every task at once on a thread of its own, since tasks may block on each other. Threads are kept and
/// sleep when they have nothing to do. The destructor waits for the tasks.
class TaskThreads {
 public:
  TaskThreads() = default;
  ~TaskThreads();
  TaskThreads(const TaskThreads&) = delete;
  TaskThreads& operator=(const TaskThreads&) = delete;

  void run(std::shared_ptr<Task> task);

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wakeup_;
  std::deque<std::shared_ptr<Task>> tasks_;
  size_t num_idle_ = 0;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weft::device::cpu
