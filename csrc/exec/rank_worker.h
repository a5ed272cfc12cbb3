#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/dispatch.h"
#include "device/device.h"
#include "exec/forward.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weight_coverage.h"
#include "plan/step_plan.h"
#include "plan/trace.h"

namespace weft::exec {

/// Sizes that every buffer follows from; resolved before a weight is read.
struct ExecConfig {
  plan::PlanConfig plan;
  device::Backend backend = device::Backend::kCpu;  // some buffers are for kernels of one alone
  DType dtype = DType::kF32;                        // of weights, activations and the KV cache
  int64_t max_tokens = 0;                           // rows of one DP rank in one step
  int64_t max_seqs = 0;     // sequences of one DP rank in one step; also the number of request slots
  int64_t max_context = 0;  // tokens of one sequence
  int64_t page_size = 1;
  int64_t num_pages = 0;         // of one DP rank
  int64_t max_top_logprobs = 0;  // largest num_top that a row may ask
  bool poison = false;           // tests: NaN in padding, workspaces and unused KV before every step
  std::chrono::milliseconds timeout{60000};  // of every wait
};

/// What of the model a step's collectives depend on.
plan::ModelShape model_shape(const ExecConfig& config, const model::ModelConfig& model);

/// A line of the memory ledger: bytes on one rank.
struct MemoryItem {
  std::string name;
  int64_t num_bytes = 0;
};
/// All that a rank allocates, from the configuration alone.
std::vector<MemoryItem> memory_ledger(const ExecConfig& config, const model::ModelConfig& model, int rank);

/// How a rank reaches its peers. Tests wrap both.
struct RankPeers {
  /// The Communicator of a group on a channel: 0 for the compute stream, 1 for the communication stream, 2
  /// and 3 for the dispatchers of the two micro-batches.
  std::function<std::unique_ptr<comm::Communicator>(plan::Group group, int channel)> communicator;
  /// If set, replaces a dispatcher by one around it.
  std::function<std::unique_ptr<comm::Dispatcher>(std::unique_ptr<comm::Dispatcher>)> wrap_dispatcher;
};

/// A finished step of one rank.
struct StepDone {
  ForwardOutput output;     // filled on attention-TP rank 0 of the DP rank, else empty
  uint64_t trace_hash = 0;  // plan::shared_trace_hash of the collectives that the rank enqueued
};

/// One rank: its device, streams, weights, KV cache, fixed buffers and graphs. All calls from the rank's
/// thread.
class RankWorker {
 public:
  RankWorker(int rank, ExecConfig config, const model::ModelConfig& model, device::Device& device,
             const RankPeers& peers);
  ~RankWorker();
  RankWorker(const RankWorker&) = delete;
  RankWorker& operator=(const RankWorker&) = delete;

  /// Reads this rank's shard; with `num_threads` threads if the host cannot write the device's memory.
  void load(model::WeightSource& source, model::WeightCoverage& coverage, int num_threads = 1);
  /// Captures a graph for every bucket, the largest first: those that decode steps of full buckets replay.
  /// Without this, and for other kinds of steps, a graph is captured by the first step that needs it.
  void capture_graphs();
  /// Enqueues a step and returns. `input` must live until collect(). At most two steps may be uncollected.
  void enqueue(const plan::StepPlan& plan, const ForwardInput& input);
  /// Waits for the oldest uncollected step. Throws what failed on the device, a mismatch between the plan's
  /// trace and the collectives that ran, or a timeout; names rank and op.
  StepDone collect();

  /// Returns when nothing runs any more, whether it succeeded or not. The last call.
  void drain() noexcept;
  /// What was enqueued so far.
  [[nodiscard]] RankCounters counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft::exec
