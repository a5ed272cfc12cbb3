#include "plan/trace.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "plan/fnv.h"
#include "plan/stages.h"

namespace weft::plan {
namespace {

class Tracer {
 public:
  Tracer(const StepPlan& plan, const PlanConfig& config, const ModelShape& model, int rank)
      : plan_(plan),
        config_(config),
        parallel_(config.parallel),
        model_(model),
        dp_rank_(static_cast<size_t>(parallel_.attn_dp_rank(rank))),
        layouts_(layer_layouts(model.sparse_pattern, parallel_, plan.layernorm_sp)) {}

  std::vector<CollectiveRecord> run() {
    const int num_batches = static_cast<int>(plan_.micro_batches.size());
    for (int batch = 0; batch < num_batches; ++batch) {
      at(batch, -1);
      attn_tp(plan_.layernorm_sp ? Collective::kReduceScatter : Collective::kAllReduce,
              rows() * model_.hidden);
    }
    const StagePlan stages =
        make_stage_plan(layouts_, plan_.schedule, plan_.dispatch, model_.has_shared_experts);
    const int num_stages = static_cast<int>(stages.stages.size());
    if (num_batches == 1) {
      for (int stage = 0; stage < num_stages; ++stage)
        trace_stage(0, stages.stages[static_cast<size_t>(stage)]);
    } else {
      for (const auto& [batch, stage] : stage_order(num_stages, stages.delta_stages)) {
        trace_stage(batch, stages.stages[static_cast<size_t>(stage)]);
      }
    }
    at(0, -1);
    for (int64_t pass = 0; pass < plan_.logit_chunks; ++pass) trace_logits(pass);
    return std::move(trace_);
  }

 private:
  [[nodiscard]] const MicroBatchPlan& batch() const {
    return plan_.micro_batches[static_cast<size_t>(micro_batch_)];
  }
  [[nodiscard]] int64_t rows() const { return batch().rows[dp_rank_]; }

  void at(int micro_batch, int layer) {
    micro_batch_ = micro_batch;
    layer_ = layer;
  }
  void add(Collective op, Group group, DType dtype, int64_t count) {
    if (count == 0) return;
    trace_.push_back({.op = op,
                      .group = group,
                      .dtype = dtype,
                      .count = count,
                      .micro_batch = micro_batch_,
                      .layer = layer_});
  }
  void attn_tp(Collective op, int64_t count) {
    if (parallel_.attn_tp_size() > 1) add(op, Group::kAttnTp, model_.dtype, count);
  }
  void tp(Collective op, int64_t count) {
    if (parallel_.tp_size > 1) add(op, Group::kTp, model_.dtype, count);
  }

  void trace_stage(int micro_batch, const Stage& stage) {
    for (const StageOp& op : stage) {
      at(micro_batch, op.layer);
      trace_op(op.op, layouts_[static_cast<size_t>(op.layer)]);
    }
  }

  void trace_op(LayerOp op, const LayerLayout& layout) {
    switch (op) {
      case LayerOp::kPrepareAttn:
        if (layout.prepare_attn == PrepareAttn::kScatteredToTpAttnFull) {
          attn_tp(Collective::kAllGather,
                  rows() * (model_.latent_width > 0 ? model_.latent_width : model_.hidden));
        }
        break;
      case LayerOp::kPrepareMlp:
        trace_prepare_mlp(layout);
        break;
      case LayerOp::kDispatchA:
        exchange(Collective::kDispatch);
        break;
      case LayerOp::kExperts:
        if (plan_.dispatch == DispatchMode::kNone) break;
        for (int64_t chunk = 0; chunk + 1 < batch().expert_chunks; ++chunk) {
          exchange(Collective::kCombine);
          exchange(Collective::kDispatch);
        }
        break;
      case LayerOp::kCombineA:
        exchange(Collective::kCombine);
        break;
      case LayerOp::kPostprocess:
        trace_postprocess(layout);
        break;
      default:  // computes, or waits for what another operation started
        break;
    }
  }

  void trace_prepare_mlp(const LayerLayout& layout) {
    const int64_t own = rows() * model_.hidden;
    switch (layout.prepare_mlp) {
      case PrepareMlp::kSimple:
        break;
      case PrepareMlp::kGatherHiddenStatesAndResidual:
        if (parallel_.attn_dp_size() == 1) {
          if (layout.input == Layout::kScattered) attn_tp(Collective::kAllGather, own);
          attn_tp(Collective::kAllReduce, own);
        } else {
          attn_tp(Collective::kReduceScatter, own);
          tp(Collective::kAllGather, batch().gathered_rows * model_.hidden);
        }
        break;
      case PrepareMlp::kScatterHiddenStatesAndResidual:
        attn_tp(Collective::kReduceScatter, own);
        break;
      case PrepareMlp::kGatherHiddenStates:
        attn_tp(Collective::kReduceScatter, own);
        if (parallel_.attn_dp_size() == 1) {
          attn_tp(Collective::kAllGather, own);
        } else {
          tp(Collective::kAllGather, batch().gathered_rows * model_.hidden);
        }
        break;
    }
  }

  void trace_postprocess(const LayerLayout& layout) {
    const int64_t own = rows() * model_.hidden;
    if (layout.mlp == Layout::kFull) {
      const bool scattered = layout.output == Layout::kScattered;
      if (parallel_.attn_dp_size() == 1) {
        attn_tp(scattered ? Collective::kReduceScatter : Collective::kAllReduce, own);
      } else {
        tp(Collective::kReduceScatter, batch().gathered_rows * model_.hidden);
        if (!scattered) attn_tp(Collective::kAllGather, own);
      }
    } else if (layout.postprocess == Postprocess::kGather) {
      attn_tp(Collective::kAllGather, own);
    }
  }

  void exchange(Collective op) {
    const int64_t chunk_rows =
        plan_.dispatch == DispatchMode::kNormal ? config_.normal_chunk_rows : config_.low_latency_rows;
    add(op, Group::kTp, model_.dtype, chunk_rows * parallel_.tp_size * model_.hidden);
  }

  [[nodiscard]] int64_t logit_rows(size_t dp_rank, int64_t pass) const {
    const int64_t done = pass * config_.logit_chunk_rows;
    return std::clamp<int64_t>(plan_.logit_rows[dp_rank] - done, 0, config_.logit_chunk_rows);
  }

  void trace_logits(int64_t pass) {
    const int64_t n = parallel_.tp_size;
    const int64_t t = parallel_.attn_tp_size();
    if (plan_.layernorm_sp) attn_tp(Collective::kAllReduce, logit_rows(dp_rank_, pass) * model_.hidden);
    if (parallel_.attn_dp_size() > 1 && !parallel_.enable_dp_lm_head) {
      int64_t sum = 0;
      for (size_t d = 0; d < plan_.logit_rows.size(); ++d) sum += logit_rows(d, pass);
      tp(Collective::kAllGather, sum * model_.hidden);
      add(Collective::kAllGather, Group::kTp, DType::kF32, n * sum * ceil_div(model_.vocab, n));
    } else if (t > 1) {
      add(Collective::kAllGather, Group::kAttnTp, DType::kF32,
          t * logit_rows(dp_rank_, pass) * ceil_div(model_.vocab, t));
    }
  }

  const StepPlan& plan_;
  const PlanConfig& config_;
  const ParallelConfig& parallel_;
  const ModelShape& model_;
  const size_t dp_rank_;
  const std::vector<LayerLayout> layouts_;
  std::vector<CollectiveRecord> trace_;
  int micro_batch_ = 0;
  int layer_ = -1;
};

void add_record(Fnv& fnv, const CollectiveRecord& record) {
  fnv.add(record.op).add(record.group).add(record.dtype).add(record.count);
  fnv.add(record.micro_batch).add(record.layer);
}

}  // namespace

std::string_view group_name(Group group) { return group == Group::kTp ? "tp" : "attn_tp"; }

std::string CollectiveRecord::describe() const {
  return fmt::format("{} of {} {} in {}, micro-batch {}, layer {}", collective_name(op), count,
                     dtype_name(dtype), group_name(group), micro_batch, layer);
}

std::vector<CollectiveRecord> step_trace(const StepPlan& plan, const PlanConfig& config,
                                         const ModelShape& model, int rank) {
  WEFT_CHECK(rank >= 0 && rank < config.parallel.tp_size, "step_trace: rank {} of {}", rank,
             config.parallel.tp_size);
  WEFT_CHECK(plan.modes.size() == static_cast<size_t>(config.parallel.attn_dp_size()),
             "step_trace: the plan is of {} DP ranks, the configuration of {}; give the one it was made from",
             plan.modes.size(), config.parallel.attn_dp_size());
  if (!plan.run) return {};
  return Tracer(plan, config, model, rank).run();
}

uint64_t trace_hash(const std::vector<CollectiveRecord>& trace) {
  Fnv fnv;
  for (const CollectiveRecord& record : trace) add_record(fnv, record);
  return fnv.value();
}

uint64_t shared_trace_hash(const std::vector<CollectiveRecord>& trace) {
  Fnv fnv;
  for (const CollectiveRecord& record : trace) {
    if (record.group == Group::kTp) add_record(fnv, record);
  }
  return fnv.value();
}

}  // namespace weft::plan
