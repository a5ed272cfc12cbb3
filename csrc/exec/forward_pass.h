#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/boundary.h"
#include "comm/dispatch.h"
#include "exec/inputs.h"
#include "exec/ledger.h"
#include "exec/rank_buffers.h"
#include "exec/stage_times.h"
#include "model/model.h"
#include "plan/layout.h"
#include "plan/stages.h"

namespace weft::exec {

/// A rank's streams, communicators and dispatchers. Channel 0 goes with the compute stream, 1 with the
/// communication stream; dispatchers have a channel of their own each.
struct RankComm {
  device::Stream* compute = nullptr;
  device::Stream* comm = nullptr;
  std::array<std::unique_ptr<device::Event>, 2> fork, join;        // of each micro-batch
  std::array<std::unique_ptr<LedgerCommunicator>, 2> tp, attn_tp;  // by channel
  std::array<std::unique_ptr<LedgerCommunicator>, 2> dispatch_group;
  std::array<std::unique_ptr<comm::Dispatcher>, 2>
      dispatchers;  // of each micro-batch; null if not dispatched
};

/// Enqueues the stages of one step on one rank, from token ids to sampled tokens: run once for an eager step,
/// or once inside a capture. Reads no host state of the step beyond the plan and `host`.
class ForwardPass {
 public:
  /// What an eager step knows on the host; a captured one has no prompts and takes sizes from its bucket.
  struct Host {
    std::array<int64_t, 2> num_seqs{};
    std::array<int32_t, 2> num_prefill_seqs{};
    std::array<int64_t, 2> num_prefill_rows{};
    std::array<int64_t, 2> num_prefill_kv_tokens{};
  };

  ForwardPass(const ExecConfig& config, const model::ModelConfig& model_config, const model::Model& model,
              const model::WeightMap& weights, const RankSizes& sizes, RankBuffers& buffers,
              const InputBuffers& inputs, RankComm& comm, Ledger& ledger, StageMarks& marks, int rank);

  void run(const plan::StepPlan& plan, const Host& host);

 private:
  /// One micro-batch of the step under way.
  struct MicroBatch {
    int index = 0;
    int64_t rows = 0;
    int64_t expert_chunks = 1;
    comm::Boundary boundary;
    model::AttentionContext attention;
    MicroBatchBuffers* buffers = nullptr;
    comm::ReceivedRows received;
  };

  MicroBatch begin(const plan::StepPlan& plan, const Host& host, int index);
  /// Plans the prompts of a micro-batch, if kernels want it; once for all layers.
  void plan_prefill(MicroBatch& mb);
  void embed(const plan::StepPlan& plan, MicroBatch& mb);
  void set_tag(int32_t tag);
  void run_stage(MicroBatch& mb, const plan::Stage& stage);
  void run_op(MicroBatch& mb, const plan::StageOp& op);
  void prepare_attn(MicroBatch& mb, const plan::LayerLayout& layout, const model::Layer& layer);
  void dispatch(MicroBatch& mb, const plan::LayerLayout& layout, int64_t chunk);
  void combine(MicroBatch& mb, const plan::LayerLayout& layout, int64_t chunk);
  void select_experts(MicroBatch& mb, const plan::LayerLayout& layout, const model::SparseFfn& ffn);
  void run_experts(MicroBatch& mb, const plan::LayerLayout& layout, const model::SparseFfn& ffn);
  void received_experts(MicroBatch& mb, const model::SparseFfn& ffn);
  void logits_pass(const plan::StepPlan& plan, int64_t pass);
  [[nodiscard]] comm::SendRows send_rows(const MicroBatch& mb, const plan::LayerLayout& layout) const;
  [[nodiscard]] ops::ValidRows valid_rows(const MicroBatch& mb, const plan::LayerLayout& layout) const;
  [[nodiscard]] int64_t dispatch_count() const;

  const ExecConfig& config_;
  const model::ModelConfig& model_config_;
  const model::Model& model_;
  const model::WeightMap& weights_;
  const RankSizes& sizes_;
  RankBuffers& buffers_;
  const InputBuffers& inputs_;
  RankComm& comm_;
  Ledger& ledger_;
  StageMarks& marks_;
  int rank_;
  size_t dp_rank_;
  std::vector<plan::LayerLayout> ordinary_layouts_, layernorm_sp_layouts_;
  bool has_shared_;
  // Of the step under way.
  const std::vector<plan::LayerLayout>* layouts_ = nullptr;
  plan::DispatchMode dispatch_mode_ = plan::DispatchMode::kNone;
};

}  // namespace weft::exec
