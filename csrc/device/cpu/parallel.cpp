#include "device/cpu/parallel.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/math.h"

namespace weft::device::cpu {
namespace {

/// How long a thread looks for what is about to happen before it sleeps. It bridges the ops between two that
/// use all threads, and the last block of a job, which a trip through the kernel would cost as much as. An
/// idle device comes to rest after it.
constexpr auto kSpin = std::chrono::microseconds(50);

template <class Condition>
void spin_until(const Condition& condition) {
  const auto give_up = std::chrono::steady_clock::now() + kSpin;
  while (!condition() && std::chrono::steady_clock::now() < give_up) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace

/// One parallel_for. Threads take blocks of grains until none is left.
struct HelperPool::Job {
  int64_t n;
  int64_t block;
  const std::function<void(int64_t, int64_t)>& body;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;  // under the pool's mutex

  void work() {
    while (true) {
      const int64_t begin = next.fetch_add(block, std::memory_order_relaxed);
      if (begin >= n) return;
      body(begin, std::min(begin + block, n));
    }
  }
};

HelperPool::HelperPool(int num_threads) : num_threads_(num_threads) {
  WEFT_CHECK(num_threads >= 1, "a device needs at least one thread, not {}", num_threads);
  helpers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this] { helper_loop(); });
}

HelperPool::~HelperPool() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    generation_.fetch_add(1);
  }
  wakeup_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void HelperPool::parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  WEFT_CHECK(grain > 0, "parallel_for: grain is {}; it must be positive", grain);
  if (n <= 0) return;
  const int64_t num_grains = ceil_div(n, grain);
  if (num_threads_ == 1 || num_grains == 1) return body(0, n);
  const std::unique_lock owner(owner_, std::try_to_lock);
  if (!owner.owns_lock()) return body(0, n);  // also a parallel_for inside a body

  // A few blocks a thread even out unequal cores; more would only cost.
  const int64_t blocks = std::min(num_grains, int64_t{4} * num_threads_);
  Job job{.n = n, .block = ceil_div(num_grains, blocks) * grain, .body = body, .next = 0, .error = nullptr};
  {
    const std::lock_guard lock(mutex_);
    job_ = &job;
    generation_.fetch_add(1);
  }
  if (num_grains == 2) {
    wakeup_.notify_one();
  } else {
    wakeup_.notify_all();
  }
  std::exception_ptr error;
  try {
    job.work();
  } catch (...) {
    error = std::current_exception();
    job.next.store(n);
  }
  std::unique_lock lock(mutex_);
  job_ = nullptr;  // a helper that wakes up late finds nothing
  const auto all_done = [&] { return num_active_.load() == 0; };
  if (!all_done()) {
    lock.unlock();
    spin_until(all_done);
    lock.lock();
  }
  finished_.wait(lock, all_done);
  if (error == nullptr) error = job.error;
  lock.unlock();
  if (error != nullptr) std::rethrow_exception(error);
}

bool HelperPool::wait_for_job(std::unique_lock<std::mutex>& lock, uint64_t last) {
  spin_until([&] { return generation_.load(std::memory_order_acquire) != last; });
  lock.lock();
  wakeup_.wait(lock, [&] { return generation_.load() != last; });
  return !closed_;
}

void HelperPool::helper_loop() {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_, std::defer_lock);
  while (wait_for_job(lock, seen)) {
    seen = generation_.load();
    Job* job = job_;
    if (job != nullptr) {
      ++num_active_;
      lock.unlock();
      std::exception_ptr error;
      try {
        job->work();
      } catch (...) {
        error = std::current_exception();
        job->next.store(job->n);
      }
      lock.lock();
      if (error != nullptr && job->error == nullptr) job->error = error;
      if (--num_active_ == 0) finished_.notify_one();
    }
    lock.unlock();
  }
}

}  // namespace weft::device::cpu
