#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/local/local_world.h"
#include "device/device.h"
#include "exec/rank_worker.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/model.h"
#include "model/weight_coverage.h"
#include "runtime/pipeline.h"

namespace weft::exec::testing {

/// Dummy weights, but large enough that each part of the model moves the log-probabilities by far more than
/// the tests' tolerance. f32 only.
class LoudWeights final : public model::WeightSource {
 public:
  [[nodiscard]] bool contains(std::string_view name) const override { return inner_->contains(name); }
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const model::Slice> slices,
            const device::TensorView& dst) override {
    inner_->read(name, full_shape, slices, dst);
    if (name.find("norm") != std::string_view::npos) return;
    const int64_t rows = dst.rank == 1 ? 1 : dst.shape[0];
    const int64_t columns = dst.shape[static_cast<size_t>(dst.rank) - 1];
    for (int64_t r = 0; r < rows; ++r) {
      float* row = dst.as<float>() + r * dst.stride[0] * (dst.rank == 1 ? 0 : 1);
      for (int64_t c = 0; c < columns; ++c) row[c] *= 10.0F;
    }
  }
  [[nodiscard]] std::vector<std::string> names() const override { return inner_->names(); }

 private:
  std::unique_ptr<model::WeightSource> inner_ = model::open_dummy(7);
};

/// A tiny model with made-up weights over N rank threads, without files and without Python: what the tests of
/// this folder script their generations on.
struct ScriptOptions {
  std::string config_json;
  plan::ParallelConfig parallel;
  plan::TboPolicy tbo_policy = plan::TboPolicy::kAny;
  std::vector<int64_t> graph_buckets;
  int64_t max_tokens = 64;
  int64_t max_seqs = 8;
  int64_t max_context = 128;
  int64_t page_size = 1;
  int64_t normal_chunk_rows = 64;
  int64_t low_latency_rows = 64;
  int64_t logit_chunk_rows = 16;
  bool poison = false;
  std::chrono::milliseconds timeout{20000};
  std::function<device::CpuOptions(int rank, device::CpuOptions)> device_options;
  std::function<RankPeers(int rank, RankPeers)> wrap_peers;
  std::function<void(int rank, ForwardInput&)> edit_input;  // before a rank sees its part of a step
};

class ScriptedModel {
 public:
  explicit ScriptedModel(const ScriptOptions& options)
      : config_(model::parse_config(options.config_json)),
        world_(options.parallel.tp_size, options.timeout),
        devices_(static_cast<size_t>(options.parallel.tp_size)),
        source_(std::make_unique<LoudWeights>()) {
    ExecConfig exec;
    exec.plan.parallel = options.parallel;
    exec.plan.tbo_policy = options.tbo_policy;
    exec.plan.graph_buckets = options.graph_buckets;
    exec.plan.normal_chunk_rows = options.normal_chunk_rows;
    exec.plan.low_latency_rows = options.low_latency_rows;
    exec.plan.logit_chunk_rows = options.logit_chunk_rows;
    exec.dtype = config_.dtype;
    exec.max_tokens = options.max_tokens;
    exec.max_seqs = options.max_seqs;
    exec.max_context = options.max_context;
    exec.page_size = options.page_size;
    exec.num_pages = options.max_seqs * options.max_context / options.page_size;
    exec.max_top_logprobs = 2;
    exec.poison = options.poison;
    exec.timeout = options.timeout;
    runtime::PipelineConfig pipeline;
    pipeline.plan = exec.plan;
    pipeline.limits = {.max_requests = options.max_seqs,
                       .max_tokens = options.max_tokens,
                       .max_context = options.max_context,
                       .page_size = options.page_size,
                       .num_pages = exec.num_pages,
                       .max_top_logprobs = 2,
                       .vocab_size = config_.vocab_size};
    pipeline.timeout = options.timeout;
    pipeline_ = std::make_unique<runtime::Pipeline>(
        pipeline,
        [this, exec, options](int rank, const std::function<void(const std::string&)>& fail) {
          return std::make_unique<Adapter>(*this, rank, exec, options, fail);
        },
        [this](const std::string& reason) { world_.abort(reason); });
  }

  [[nodiscard]] runtime::Pipeline& pipeline() { return *pipeline_; }
  [[nodiscard]] const model::ModelConfig& config() const { return config_; }
  /// Of a rank, while the pipeline lives.
  [[nodiscard]] device::Device& device(int rank) {
    const std::lock_guard lock(mutex_);
    return *devices_[static_cast<size_t>(rank)];
  }

 private:
  class Adapter final : public runtime::Worker {
   public:
    Adapter(ScriptedModel& owner, int rank, const ExecConfig& exec, const ScriptOptions& options,
            const std::function<void(const std::string&)>& fail) {
      device::CpuOptions device_options{.name = "cpu:" + std::to_string(rank)};
      if (options.device_options) device_options = options.device_options(rank, device_options);
      device_ = device::make_cpu_device(device_options);
      device_->on_failure(fail);
      edit_ = options.edit_input;
      rank_ = rank;
      {
        const std::lock_guard lock(owner.mutex_);
        owner.devices_[static_cast<size_t>(rank)] = device_.get();
      }
      const auto& parallel = exec.plan.parallel;
      RankPeers peers;
      peers.communicator = [&owner, &parallel, rank](plan::Group group, int channel) {
        std::vector<int> ranks;
        for (int r = 0; r < parallel.tp_size; ++r) {
          if (group == plan::Group::kTp || parallel.attn_dp_rank(r) == parallel.attn_dp_rank(rank)) {
            ranks.push_back(r);
          }
        }
        return owner.world_.make_communicator(rank, std::string(plan::group_name(group)), ranks, channel);
      };
      if (options.wrap_peers) peers = options.wrap_peers(rank, std::move(peers));
      worker_ = std::make_unique<RankWorker>(rank, exec, owner.config_, *device_, peers);
      worker_->load(*owner.source_, owner.coverage_);
    }
    void enqueue(const plan::StepPlan& plan, const ForwardInput& input) override {
      if (!edit_) return worker_->enqueue(plan, input);
      auto edited = input;
      edit_(rank_, edited);
      worker_->enqueue(plan, edited);
    }
    ForwardOutput collect() override { return worker_->collect().output; }
    void drain() noexcept override { worker_->drain(); }
    [[nodiscard]] RankCounters counters() const override { return worker_->counters(); }
    void start_trace() override { device_->start_trace(); }
    [[nodiscard]] std::vector<device::OpSpan> take_trace() override { return device_->take_trace(); }

   private:
    int rank_ = 0;
    std::function<void(int rank, ForwardInput&)> edit_;
    std::unique_ptr<device::Device> device_;
    std::unique_ptr<RankWorker> worker_;
  };

  model::ModelConfig config_;
  comm::LocalWorld world_;
  std::mutex mutex_;
  std::vector<device::Device*> devices_;
  std::unique_ptr<model::WeightSource> source_;
  model::WeightCoverage coverage_;
  std::unique_ptr<runtime::Pipeline> pipeline_;
};

}  // namespace weft::exec::testing
