#pragma once

#include <memory>
#include <vector>

#include "device/device.h"
#include "exec/rank_worker.h"
#include "runtime/worker.h"

namespace weft::runtime {

/// A rank that runs the model: an exec::RankWorker and the device that it runs on.
class ModelWorker : public Worker {
 public:
  /// Makes the rank on `device` and reads its weights with num_threads threads; blocks until its peers have
  /// been made too. On a GPU all graphs are captured now, as SGLang does: a later capture would hold up a
  /// step. Elsewhere it takes no longer than the step itself, so it waits for it.
  ModelWorker(int rank, const exec::ExecConfig& config, const model::ModelConfig& model,
              std::unique_ptr<device::Device> device, const exec::RankPeers& peers,
              model::WeightSource& weights, model::WeightCoverage& coverage, int num_threads)
      : device_(std::move(device)), rank_(rank, config, model, *device_, peers) {
    rank_.load(weights, coverage, num_threads);
    if (device_->backend() == device::Backend::kCuda) rank_.capture_graphs();
  }

  void enqueue(const plan::StepPlan& plan, const exec::ForwardInput& input) override {
    rank_.enqueue(plan, input);
  }
  exec::ForwardOutput collect() override { return rank_.collect().output; }
  void drain() noexcept override { rank_.drain(); }
  [[nodiscard]] exec::RankCounters counters() const override { return rank_.counters(); }
  void start_trace() override { device_->start_trace(); }
  [[nodiscard]] std::vector<device::OpSpan> take_trace() override { return device_->take_trace(); }

 private:
  std::unique_ptr<device::Device> device_;  // outlives what stands on it
  exec::RankWorker rank_;
};

}  // namespace weft::runtime
