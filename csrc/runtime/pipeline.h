#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "exec/forward.h"
#include "plan/step_plan.h"
#include "runtime/requests.h"
#include "runtime/step.h"
#include "runtime/step_runner.h"
#include "runtime/worker.h"

namespace weft::runtime {

struct PipelineConfig {
  plan::PlanConfig plan;
  RequestLimits limits;           // of one DP rank
  double split_threshold = 0.48;  // of two-batch overlap's two-chunk split
  std::chrono::milliseconds timeout{60000};
  bool list_unused_pages = false;                                          // fill ForwardInput::unused_pages
  std::function<void(int dp_rank, exec::ForwardInput& input)> edit_input;  // tests: changes what a step runs
};

struct Stats {
  std::vector<exec::RankCounters> ranks;
  RequestCounts requests;
  int64_t pages_total = 0;  // over all DP ranks
  int64_t pages_used = 0;
};

/// When an op of a traced step ran.
struct TimelineSpan {
  int rank = 0;
  std::string stream;
  std::string name;
  double start_us = 0.0;  // since the step's first op
  double end_us = 0.0;
  int micro_batch = -1;  // -1: of none
};

/// Steps through all ranks: submit() plans one and hands it to the rank threads, wait() commits what it left.
/// Step n + 1 may be submitted before step n was waited for. Thread-safe.
class Pipeline {
 public:
  /// Steps submitted and not waited for.
  static constexpr size_t kMaxTickets = 2;

  /// On a thread for each rank.
  Pipeline(const PipelineConfig& config, WorkerFactory make_worker,
           std::function<void(const std::string&)> abort);
  Pipeline(PipelineConfig config, std::unique_ptr<StepRunner> runner);

  /// Applies the batch's changes and starts its step. Returns a ticket, or 0 if no rank has rows. Throws
  /// Error and changes nothing if the batch is not valid or kMaxTickets are out; after a failure, throws
  /// that.
  uint64_t submit(StepBatch batch);
  /// Blocks until the oldest step is done. Throws Error for any other ticket, and the failure of any rank;
  /// after that the pipeline is dead.
  StepResult wait(uint64_t ticket);

  [[nodiscard]] Stats stats() const;
  /// The next step that runs does so alone, and keeps when each op ran.
  void trace_next_step();
  /// Of the last traced step that was waited for, by start; empty if there is none.
  [[nodiscard]] std::vector<TimelineSpan> timeline() const;
  /// See StepRunner::close.
  void close() { runner_->close(); }

 private:
  std::shared_ptr<Step> new_step();
  void plan_step(Step& step);

  PipelineConfig config_;
  uint64_t config_hash_ = 0;
  mutable std::mutex mutex_;  // of all below but runner_
  Requests requests_;
  uint64_t next_id_ = 1;
  uint64_t last_plan_hash_ = 0;
  std::deque<std::shared_ptr<Step>> in_flight_;
  std::vector<std::shared_ptr<Step>> spare_;  // retired steps, kept for their memory
  bool trace_next_ = false;
  std::vector<TimelineSpan> timeline_;
  std::unique_ptr<StepRunner> runner_;
};

}  // namespace weft::runtime
