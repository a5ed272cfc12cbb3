#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/step_runner.h"
#include "runtime/worker.h"

namespace weft::runtime {

struct RankThreadsConfig {
  int num_ranks = 1;
  int attn_tp_size = 1;                      // rank r works for DP rank r / attn_tp_size
  std::chrono::milliseconds timeout{60000};  // of a rank's part of a step
  std::chrono::milliseconds join_timeout{2000};
};

/// A thread a rank, each with its Worker. Steps enter in order on every rank; a rank starts a step before it
/// collects the one before, and collects a step only when somebody waits for it, so that the next one is
/// there to be started first.
///
/// The first failure of any rank ends all of them: `abort` is called once with its message, which wait() and
/// push() then throw for ever.
class RankThreads final : public StepRunner {
 public:
  /// Makes all workers; throws Error with the first failure after the others have ended.
  RankThreads(const RankThreadsConfig& config, WorkerFactory make_worker,
              std::function<void(const std::string&)> abort);
  /// close(), its error dropped.
  ~RankThreads() override;
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;

  void push(const std::shared_ptr<Step>& step) override;
  void wait(const Step& step) override;
  void fail(int rank, const std::string& message) noexcept override;
  void check() const override;
  [[nodiscard]] std::vector<exec::RankCounters> counters() const override;
  /// Names ranks that did not end within join_timeout; their threads, and what they own, are then left
  /// behind.
  void close() override;

 private:
  struct Shared;
  static void run(const std::shared_ptr<Shared>& shared, int rank);

  std::shared_ptr<Shared> shared_;
  std::mutex close_mutex_;
  std::vector<std::thread> threads_;
};

}  // namespace weft::runtime
