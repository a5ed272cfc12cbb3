#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace weft::device::cpu {

/// How far an in-order queue has come: a count that only grows, which threads may sleep on. An event is a
/// position in such a count, so recording costs nothing when the queue runs.
class Progress {
 public:
  [[nodiscard]] uint64_t completed() const { return completed_.load(std::memory_order_seq_cst); }

  void publish(uint64_t position) {
    // Sequentially consistent on both sides: either this thread sees the sleeper or the sleeper sees
    // `position`.
    completed_.store(position, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) wake();
  }

  void wait(uint64_t position) {
    if (completed() >= position) return;
    std::unique_lock lock(mutex_);
    const Sleeper sleeper(sleepers_);
    wakeup_.wait(lock, [&] { return completed() >= position; });
  }

  /// False if `timeout` passed first. Also returns true when `give_up` is set (after a wake()).
  bool wait_for(uint64_t position, std::chrono::milliseconds timeout, const std::atomic<bool>& give_up) {
    if (completed() >= position) return true;
    // A very long timeout would overflow the clock.
    const auto bounded = std::min<std::chrono::milliseconds>(timeout, std::chrono::hours(24 * 365));
    std::unique_lock lock(mutex_);
    const Sleeper sleeper(sleepers_);
    return wakeup_.wait_for(lock, bounded, [&] { return completed() >= position || give_up.load(); });
  }

  void wake() {
    { const std::lock_guard lock(mutex_); }
    wakeup_.notify_all();
  }

 private:
  struct Sleeper {
    explicit Sleeper(std::atomic<int>& count) : count_(count) { ++count_; }
    ~Sleeper() { --count_; }
    Sleeper(const Sleeper&) = delete;
    Sleeper& operator=(const Sleeper&) = delete;
    std::atomic<int>& count_;
  };

  std::atomic<uint64_t> completed_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wakeup_;
};

}  // namespace weft::device::cpu
