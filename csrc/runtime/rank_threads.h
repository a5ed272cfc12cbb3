#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "exec/forward.h"
#include "plan/step_plan.h"
#include "runtime/rank_batch.h"
#include "runtime/worker.h"

namespace weft::runtime {

/// A step on its way: the rank threads read plan and inputs and write outputs.
struct Step {
  uint64_t id = 0;  // 1, 2, ...: also the ticket
  plan::StepPlan plan;
  std::vector<RankBatch> batches;                  // by DP rank
  std::vector<exec::ForwardInput> inputs;          // by DP rank
  std::vector<exec::ForwardOutput> outputs;        // by DP rank
  int num_collected = 0;                           // ranks
  bool traced = false;                             // runs alone, and leaves spans
  std::vector<std::vector<device::OpSpan>> spans;  // by rank
};

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
class RankThreads {
 public:
  /// Makes all workers; throws Error with the first failure after the others have ended.
  RankThreads(const RankThreadsConfig& config, WorkerFactory make_worker,
              std::function<void(const std::string&)> abort);
  /// close(), its error dropped.
  ~RankThreads();
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;

  /// Hands a step to every rank.
  void push(const std::shared_ptr<Step>& step);
  /// Blocks until every rank has collected `step`. Throws Error naming the rank that failed, or the ranks
  /// that did not come in time.
  void wait(const Step& step);
  /// Records a failure that did not come from a worker's call; from any thread.
  void fail(int rank, const std::string& message) noexcept;
  /// Throws the failure, if there is one.
  void check() const;
  /// Of each rank, as of its last collected step.
  [[nodiscard]] std::vector<exec::RankCounters> counters() const;
  /// Ends the threads, steps in flight included. Idempotent. Throws Error naming ranks that did not end
  /// within join_timeout; their threads, and what they own, are then left behind.
  void close();

 private:
  struct Shared;
  static void run(const std::shared_ptr<Shared>& shared, int rank);

  std::shared_ptr<Shared> shared_;
  std::mutex close_mutex_;
  std::vector<std::thread> threads_;
};

}  // namespace weft::runtime
