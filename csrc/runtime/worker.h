#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "exec/forward.h"
#include "plan/step_plan.h"

namespace weft::runtime {

/// What a rank thread drives: exec::RankWorker, or a fake one in tests. All calls, construction and
/// destruction included, come from the rank's thread.
class Worker {
 public:
  virtual ~Worker() = default;
  /// Starts a step and returns. `plan` and `input` live until it was collected. At most two are uncollected.
  virtual void enqueue(const plan::StepPlan& plan, const exec::ForwardInput& input) = 0;
  /// Waits for the oldest uncollected step. The output is filled on attention-TP rank 0 of a DP rank.
  virtual exec::ForwardOutput collect() = 0;
  /// Returns when nothing that was enqueued runs any more, whether it succeeded or not; what waits for peers
  /// has been aborted before. Peers may read this rank's memory until they too were drained.
  virtual void drain() noexcept = 0;
  [[nodiscard]] virtual exec::RankCounters counters() const = 0;
  /// From now on keeps when each op runs; take_trace() ends it.
  virtual void start_trace() = 0;
  [[nodiscard]] virtual std::vector<device::OpSpan> take_trace() = 0;
};

/// Makes the worker of a rank. `fail` ends all ranks with a message, from any thread, for as long as the
/// worker lives: for failures that show before anybody collects.
using WorkerFactory =
    std::function<std::unique_ptr<Worker>(int rank, std::function<void(const std::string& message)> fail)>;

}  // namespace weft::runtime
