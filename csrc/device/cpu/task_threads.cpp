#include "device/cpu/task_threads.h"

#include <utility>

namespace weft::device::cpu {

TaskThreads::~TaskThreads() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wakeup_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void TaskThreads::run(std::shared_ptr<Task> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    // An idle thread that was notified but has not woken yet still counts as idle, and its task as waiting.
    if (tasks_.size() > num_idle_) {
      ++num_idle_;
      threads_.emplace_back([this] { loop(); });
    }
  }
  wakeup_.notify_one();
}

void TaskThreads::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    wakeup_.wait(lock, [&] { return closed_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    std::shared_ptr<Task> task = std::move(tasks_.front());
    tasks_.pop_front();
    --num_idle_;
    lock.unlock();
    task->run();
    task.reset();
    lock.lock();
    ++num_idle_;
  }
}

}  // namespace weft::device::cpu
