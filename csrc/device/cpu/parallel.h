#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "device/device.h"

namespace weft::device::cpu {

/// The device's threads for parallel_for, shared by its streams: one op uses them at a time, an op that finds
/// them taken runs alone.
class HelperPool {
 public:
  explicit HelperPool(int num_threads);
  ~HelperPool();
  HelperPool(const HelperPool&) = delete;
  HelperPool& operator=(const HelperPool&) = delete;

  [[nodiscard]] int num_threads() const { return num_threads_; }
  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  struct Job;
  void helper_loop();
  bool wait_for_job(std::unique_lock<std::mutex>& lock, uint64_t last);

  const int num_threads_;
  std::mutex owner_;  // held by the op that uses the helpers

  std::mutex mutex_;
  std::condition_variable wakeup_;
  std::condition_variable finished_;
  Job* job_ = nullptr;
  std::atomic<int> num_active_{0};  // changes under the mutex
  bool closed_ = false;
  std::atomic<uint64_t> generation_{0};
  std::vector<std::thread> helpers_;
};

/// What ops see of the pool.
class CpuContext final : public ExecContext {
 public:
  explicit CpuContext(HelperPool& pool) : pool_(pool) {}
  [[nodiscard]] int num_threads() const override { return pool_.num_threads(); }
  void parallel_for(int64_t n, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end)>& body) override {
    pool_.parallel_for(n, grain, body);
  }

 private:
  HelperPool& pool_;
};

}  // namespace weft::device::cpu
