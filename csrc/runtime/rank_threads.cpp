#include "runtime/rank_threads.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace weft::runtime {

// Owned by the threads too, so that one which does not end keeps what it uses.
struct RankThreads::Shared {
  RankThreadsConfig config;
  WorkerFactory make_worker;
  std::function<void(const std::string&)> abort;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::deque<std::shared_ptr<Step>>> queues;       // by rank: steps to start
  std::vector<std::deque<std::shared_ptr<Step>>> uncollected;  // by rank: steps started; its thread's alone
  std::vector<exec::RankCounters> counters;                    // by rank
  std::vector<uint64_t> collected;                             // by rank: id of the last collected step
  std::vector<bool> ended;                                     // by rank: the thread has nothing left to do
  uint64_t wanted = 0;                                         // steps up to this id are waited for
  int num_ready = 0;
  int num_drained = 0;
  bool stopping = false;
  std::string failure;

  [[nodiscard]] bool over() const { return stopping || !failure.empty(); }

  void fail(int rank, const std::string& message) noexcept;
  void serve(int rank, Worker& worker);
  void start_next(int rank, Worker& worker, std::unique_lock<std::mutex>& lock);
  void collect_oldest(int rank, Worker& worker, std::unique_lock<std::mutex>& lock);
  [[nodiscard]] std::string ranks_where(const std::function<bool(size_t)>& is_late) const;
};

void RankThreads::Shared::fail(int rank, const std::string& message) noexcept {
  std::string reason;
  {
    const std::lock_guard lock(mutex);
    if (over()) return;  // what is closed fails in many ways
    const std::string prefix = fmt::format("rank {}: ", rank);
    failure = rank < 0 || message.rfind(prefix, 0) == 0 ? message : prefix + message;
    reason = failure;
  }
  changed.notify_all();
  abort(reason);
}

void RankThreads::Shared::start_next(int rank, Worker& worker, std::unique_lock<std::mutex>& lock) {
  auto& queue = queues[static_cast<size_t>(rank)];
  auto& started = uncollected[static_cast<size_t>(rank)];
  started.push_back(std::move(queue.front()));
  queue.pop_front();
  lock.unlock();
  const Step& step = *started.back();
  if (step.traced) worker.start_trace();
  worker.enqueue(step.plan, step.inputs[static_cast<size_t>(rank / config.attn_tp_size)]);
  lock.lock();
}

void RankThreads::Shared::collect_oldest(int rank, Worker& worker, std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  exec::ForwardOutput output = worker.collect();
  const exec::RankCounters now = worker.counters();
  std::vector<device::OpSpan> spans;
  if (uncollected[static_cast<size_t>(rank)].front()->traced) spans = worker.take_trace();
  lock.lock();
  auto& started = uncollected[static_cast<size_t>(rank)];
  const std::shared_ptr<Step> step = std::move(started.front());
  started.pop_front();
  if (rank % config.attn_tp_size == 0) {
    step->outputs[static_cast<size_t>(rank / config.attn_tp_size)] = std::move(output);
  }
  if (step->traced) step->spans[static_cast<size_t>(rank)] = std::move(spans);
  counters[static_cast<size_t>(rank)] = now;
  collected[static_cast<size_t>(rank)] = step->id;
  ++step->num_collected;
  changed.notify_all();
}

void RankThreads::Shared::serve(int rank, Worker& worker) {
  const auto& queue = queues[static_cast<size_t>(rank)];
  const auto& started = uncollected[static_cast<size_t>(rank)];
  const auto can_start = [&] {
    if (queue.empty() || started.size() == 2) return false;
    return started.empty() || (!queue.front()->traced && !started.front()->traced);
  };
  const auto can_collect = [&] { return !started.empty() && started.front()->id <= wanted; };
  std::unique_lock lock(mutex);
  ++num_ready;
  changed.notify_all();
  for (;;) {
    changed.wait(lock, [&] { return over() || can_start() || can_collect(); });
    if (over()) break;
    if (can_start()) {
      start_next(rank, worker, lock);
    } else {
      collect_oldest(rank, worker, lock);
    }
  }
}

std::string RankThreads::Shared::ranks_where(const std::function<bool(size_t)>& is_late) const {
  std::string ranks;
  for (size_t r = 0; r < ended.size(); ++r) {
    if (is_late(r)) ranks += fmt::format("{}{}", ranks.empty() ? "" : ", ", r);
  }
  return ranks;
}

void RankThreads::run(const std::shared_ptr<Shared>& shared, int rank) {
  std::unique_ptr<Worker> worker;
  try {
    worker = shared->make_worker(rank,
                                 [shared, rank](const std::string& message) { shared->fail(rank, message); });
    {
      const std::lock_guard lock(shared->mutex);
      shared->counters[static_cast<size_t>(rank)] = worker->counters();
    }
    shared->serve(rank, *worker);
  } catch (const std::exception& e) {
    shared->fail(rank, e.what());
  }
  if (worker) worker->drain();
  // Peers read each other's memory: nobody frees any before all are drained.
  {
    std::unique_lock lock(shared->mutex);
    ++shared->num_drained;
    shared->changed.notify_all();
    shared->changed.wait(lock, [&] { return shared->num_drained == shared->config.num_ranks; });
  }
  worker.reset();
  const std::lock_guard lock(shared->mutex);
  shared->ended[static_cast<size_t>(rank)] = true;
  shared->changed.notify_all();
}

RankThreads::RankThreads(const RankThreadsConfig& config, WorkerFactory make_worker,
                         std::function<void(const std::string&)> abort)
    : shared_(std::make_shared<Shared>()) {
  const auto num_ranks = static_cast<size_t>(config.num_ranks);
  shared_->config = config;
  shared_->make_worker = std::move(make_worker);
  shared_->abort = std::move(abort);
  shared_->queues.resize(num_ranks);
  shared_->uncollected.resize(num_ranks);
  shared_->counters.resize(num_ranks);
  shared_->collected.resize(num_ranks, 0);
  shared_->ended.resize(num_ranks, false);
  for (int rank = 0; rank < config.num_ranks; ++rank) {
    threads_.emplace_back([shared = shared_, rank] { run(shared, rank); });
  }
  std::string failure;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->changed.wait(
        lock, [&] { return !shared_->failure.empty() || shared_->num_ready == shared_->config.num_ranks; });
    failure = shared_->failure;
  }
  if (failure.empty()) return;
  try {
    close();
  } catch (const Error& e) {
    WEFT_THROW("{}; {}", failure, e.what());
  }
  throw Error(failure);
}

RankThreads::~RankThreads() {
  try {
    close();
  } catch (const Error&) {
    // The owner did not ask; a thread that hangs was reported to whoever waited for its step.
  }
}

void RankThreads::push(const std::shared_ptr<Step>& step) {
  {
    const std::lock_guard lock(shared_->mutex);
    for (auto& queue : shared_->queues) queue.push_back(step);
  }
  shared_->changed.notify_all();
}

void RankThreads::wait(const Step& step) {
  // A rank bounds its own waits by `timeout`; this one is for a rank that does not even do that.
  const auto timeout = 2 * shared_->config.timeout;
  std::string late;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->wanted = std::max(shared_->wanted, step.id);
    shared_->changed.notify_all();
    const bool in_time = shared_->changed.wait_for(
        lock, timeout, [&] { return shared_->over() || step.num_collected == shared_->config.num_ranks; });
    if (!in_time) late = shared_->ranks_where([&](size_t r) { return shared_->collected[r] < step.id; });
  }
  if (!late.empty()) {
    shared_->fail(
        -1, fmt::format("step {}: rank {} did not finish within {} ms", step.id, late, timeout.count()));
  }
  const std::lock_guard lock(shared_->mutex);
  if (step.num_collected == shared_->config.num_ranks) return;
  WEFT_CHECK(shared_->failure.empty(), "{}", shared_->failure);
  WEFT_THROW("the runtime was closed during step {}", step.id);
}

void RankThreads::fail(int rank, const std::string& message) noexcept { shared_->fail(rank, message); }

void RankThreads::check() const {
  const std::lock_guard lock(shared_->mutex);
  WEFT_CHECK(shared_->failure.empty(), "{}", shared_->failure);
  WEFT_CHECK(!shared_->stopping, "the runtime is closed");
}

std::vector<exec::RankCounters> RankThreads::counters() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->counters;
}

void RankThreads::close() {
  const std::lock_guard closing(close_mutex_);
  bool must_abort = false;
  {
    const std::lock_guard lock(shared_->mutex);
    must_abort = !std::exchange(shared_->stopping, true) && shared_->failure.empty();
  }
  shared_->changed.notify_all();
  if (must_abort) shared_->abort("the runtime is closed");
  std::string late;
  std::vector<bool> ended;
  {
    std::unique_lock lock(shared_->mutex);
    const auto all_ended = [&] {
      return std::all_of(shared_->ended.begin(), shared_->ended.end(), [](bool e) { return e; });
    };
    if (!shared_->changed.wait_for(lock, shared_->config.join_timeout, all_ended)) {
      late = shared_->ranks_where([&](size_t r) { return !shared_->ended[r]; });
    }
    ended = shared_->ended;
  }
  for (size_t r = 0; r < threads_.size(); ++r) {
    if (!threads_[r].joinable()) continue;
    if (ended[r]) {
      threads_[r].join();
    } else {
      threads_[r].detach();
    }
  }
  threads_.clear();
  WEFT_CHECK(late.empty(), "rank {} did not end within {} ms", late, shared_->config.join_timeout.count());
}

}  // namespace weft::runtime
