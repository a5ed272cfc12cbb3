#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "exec/forward.h"
#include "plan/step_plan.h"
#include "runtime/rank_batch.h"
#include "runtime/worker.h"

namespace weft::runtime {

/// A step on its way: the ranks read plan and inputs and write outputs.
struct Step {
  uint64_t id = 0;                      // 1, 2, ...: also the ticket
  std::vector<plan::RankState> states;  // by DP rank: what the plan was made from
  plan::StepPlan plan;
  std::vector<RankBatch> batches;                  // by DP rank
  std::vector<exec::ForwardInput> inputs;          // by DP rank
  std::vector<exec::ForwardOutput> outputs;        // by DP rank
  int num_collected = 0;                           // ranks
  bool traced = false;                             // runs alone, and leaves spans
  std::vector<std::vector<device::OpSpan>> spans;  // by rank
};

/// Where a Pipeline's steps run: on rank threads, or in a simulation.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  /// Hands a step to every rank.
  virtual void push(const std::shared_ptr<Step>& step) = 0;
  /// Blocks until every rank has collected `step`. Throws Error naming the rank that failed, or the ranks
  /// that did not come in time.
  virtual void wait(const Step& step) = 0;
  /// Records a failure that did not come from a worker's call; from any thread.
  virtual void fail(int rank, const std::string& message) noexcept = 0;
  /// Throws the failure, if there is one.
  virtual void check() const = 0;
  /// Of each rank, as of its last collected step.
  [[nodiscard]] virtual std::vector<exec::RankCounters> counters() const = 0;
  /// Ends the ranks, steps in flight included. Idempotent. Throws Error naming ranks that did not end.
  virtual void close() = 0;
};

}  // namespace weft::runtime
