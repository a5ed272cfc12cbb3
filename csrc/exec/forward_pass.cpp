#include "exec/forward_pass.h"

#include <algorithm>

#include "base/error.h"
#include "base/math.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/fill_padding.h"
#include "ops/gemm.h"
#include "ops/sampling.h"

namespace weft::exec {
namespace {

StageGroup group_of(plan::LayerOp op) {
  switch (op) {
    case plan::LayerOp::kPrepareAttn:
    case plan::LayerOp::kAttnPrepare:
    case plan::LayerOp::kAttnCore:
      return StageGroup::kAttention;
    default:
      return StageGroup::kFeedForward;
  }
}

}  // namespace

using model::ScratchId;
using plan::DispatchMode;
using plan::LayerLayout;
using plan::LayerOp;
using plan::Layout;
using plan::StepPlan;

ForwardPass::ForwardPass(const ExecConfig& config, const model::ModelConfig& model_config,
                         const model::Model& model, const model::WeightMap& weights, const RankSizes& sizes,
                         RankBuffers& buffers, const InputBuffers& inputs, RankComm& comm, Ledger& ledger,
                         StageMarks& marks, int rank)
    : config_(config),
      model_config_(model_config),
      model_(model),
      weights_(weights),
      sizes_(sizes),
      buffers_(buffers),
      inputs_(inputs),
      comm_(comm),
      ledger_(ledger),
      marks_(marks),
      rank_(rank),
      dp_rank_(static_cast<size_t>(config.plan.parallel.attn_dp_rank(rank))) {
  std::vector<bool> pattern;
  for (const auto& layer : model.layers) pattern.push_back(layer.sparse.has_value());
  const auto& parallel = config.plan.parallel;
  ordinary_layouts_ = plan::layer_layouts(pattern, parallel);
  if (parallel.enable_layernorm_sp) layernorm_sp_layouts_ = plan::layer_layouts(pattern, parallel, true);
  has_shared_ = model_config.moe.n_shared_experts > 0;
}

void ForwardPass::run(const StepPlan& plan, const Host& host) {
  dispatch_mode_ = plan.dispatch;
  marks_.begin_step();
  marks_.enter(*comm_.compute, StageGroup::kEmbedding);
  layouts_ = plan.layernorm_sp ? &layernorm_sp_layouts_ : &ordinary_layouts_;
  std::vector<MicroBatch> batches;
  for (size_t m = 0; m < plan.micro_batches.size(); ++m)
    batches.push_back(begin(plan, host, static_cast<int>(m)));
  for (auto& mb : batches) embed(plan, mb);
  const auto stages = plan::make_stage_plan(*layouts_, plan.schedule, plan.dispatch, has_shared_);
  const auto num_stages = static_cast<int>(stages.stages.size());
  if (plan.tbo) {
    for (const auto& [m, s] : plan::stage_order(num_stages, stages.delta_stages)) {
      run_stage(batches[static_cast<size_t>(m)], stages.stages[static_cast<size_t>(s)]);
    }
  } else {
    for (const auto& stage : stages.stages) run_stage(batches[0], stage);
  }
  marks_.enter(*comm_.compute, StageGroup::kLogits);
  int64_t first = 0;
  for (auto& mb : batches) {
    set_tag(mb.index);
    mb.boundary.final_norm(layouts_->back(), weights_.view(model_.final_norm),
                           buffers_.final_hidden.rows(first, mb.rows));
    first += mb.rows;
  }
  set_tag(-1);
  ledger_.at(0, -1);
  for (int64_t pass = 0; pass < plan.logit_chunks; ++pass) logits_pass(plan, pass);
}

ForwardPass::MicroBatch ForwardPass::begin(const StepPlan& plan, const Host& host, int index) {
  const auto m = static_cast<size_t>(index);
  const auto& planned = plan.micro_batches[m];
  const auto& parallel = config_.plan.parallel;
  auto& buffers = buffers_.micro_batches[m];
  const int64_t attn_tp = parallel.attn_tp_size();
  const int64_t rows = planned.rows[dp_rank_];
  const auto own = own_rows(planned, parallel, rank_);

  comm::BoundaryRows shape;
  shape.rows = rows;
  shape.slice_rows = own.size();
  shape.slice_begin = own.begin;
  shape.gathered_rows = planned.gathered_rows;
  shape.gathered_begin = planned.start[dp_rank_];
  comm::BoundaryBuffers views;
  views.x = buffers.x.rows(0, rows);
  views.residual = buffers.residual.rows(0, rows);
  views.h = buffers.h.rows(0, rows);
  if (sizes_.gathered_rows > 0) {
    for (int r = 0; r < parallel.tp_size; ++r) {
      shape.rank_rows.push_back(planned.rows[static_cast<size_t>(parallel.attn_dp_rank(r))] / attn_tp);
    }
    views.gathered = buffers.gathered.rows(0, planned.gathered_rows);
    views.gathered_out = buffers.gathered_out.rows(0, planned.gathered_rows);
  }
  const size_t channel = plan.tbo ? 1 : 0;
  const comm::BoundaryStreams streams{.compute = comm_.compute,
                                      .comm = plan.tbo ? comm_.comm : comm_.compute,
                                      .fork = comm_.fork[m].get(),
                                      .join = comm_.join[m].get()};
  const auto& layout = inputs_.layout().micro_batches[m];
  const model::AttentionContext attention{
      .stream = comm_.compute,
      .scratch = &buffers.scratch,
      .x = views.h,
      .out = views.x,
      .positions = inputs_.i32(layout.positions, rows),
      .slots = inputs_.i32(layout.slots, rows),
      .cos_sin = buffers_.cos_sin,
      .batch = inputs_.sequences(index, host.num_seqs[m], config_.page_size),
      .kv = {},
      .prefill_plan = {},
      .prefill_workspace = {},
      .num_prefill_kv_tokens = host.num_prefill_kv_tokens[m],
      .num_prefill_seqs = host.num_prefill_seqs[m],
      .num_prefill_rows = host.num_prefill_rows[m]};
  return {
      .index = index,
      .rows = rows,
      .expert_chunks = planned.expert_chunks,
      .boundary = comm::Boundary(std::move(shape), views, streams, *comm_.attn_tp[0], *comm_.attn_tp[channel],
                                 *comm_.tp[channel], parallel.attn_dp_size(), model_config_.rms_norm_eps),
      .attention = attention,
      .buffers = &buffers,
      .received = {}};
}

void ForwardPass::embed(const StepPlan& plan, MicroBatch& mb) {
  set_tag(mb.index);
  ledger_.at(mb.index, -1);
  plan_prefill(mb);
  const auto& layout = inputs_.layout().micro_batches[static_cast<size_t>(mb.index)];
  const auto x = mb.buffers->x.rows(0, mb.rows);
  auto& stream = *comm_.compute;
  ops::embedding(stream, {.out = x,
                          .ids = inputs_.i32(layout.ids, mb.rows),
                          .table = weights_.view(model_.embedding),
                          .vocab_begin = model_.vocab_begin,
                          .last_tokens = buffers_.last_tokens});
  const auto& shape = mb.boundary.rows();
  const bool scattered = plan.layernorm_sp;
  const auto own = scattered ? x.rows(shape.slice_begin, shape.slice_rows) : x;
  if (scattered) {
    comm_.attn_tp[0]->reduce_scatter(stream, own, x);
  } else {
    comm_.attn_tp[0]->all_reduce(stream, x, x);
  }
  if (config_.poison) {
    const auto valid = scattered ? InputLayout::kScatteredRows : InputLayout::kRows;
    ops::fill_padding(stream, {.x = own, .num_rows = inputs_.device_i32(layout.header) + valid});
  }
}

void ForwardPass::plan_prefill(MicroBatch& mb) {
  auto& attention = mb.attention;
  if (attention.num_prefill_seqs == 0 || !mb.buffers->prefill_plan.defined() ||
      !ops::has_prefill_plan(comm_.compute->device())) {
    return;
  }
  const auto& kv = buffers_.kv[0];
  attention.prefill_plan = mb.buffers->prefill_plan;
  attention.prefill_workspace = mb.buffers->prefill_workspace;
  ops::plan_prefill(*comm_.compute, {.plan = attention.prefill_plan,
                                     .batch = attention.batch,
                                     .num_prefill_seqs = attention.num_prefill_seqs,
                                     .num_tokens = mb.rows,
                                     .num_slots = (kv.k.defined() ? kv.k : kv.latent).shape[0]});
}

void ForwardPass::set_tag(int32_t tag) {
  comm_.compute->set_tag(tag);
  if (comm_.comm != nullptr) comm_.comm->set_tag(tag);
}

void ForwardPass::run_stage(MicroBatch& mb, const plan::Stage& stage) {
  set_tag(mb.index);
  for (const auto& op : stage) {
    ledger_.at(mb.index, op.layer);
    marks_.enter(*comm_.compute, group_of(op.op));
    run_op(mb, op);
  }
}

void ForwardPass::run_op(MicroBatch& mb, const plan::StageOp& op) {
  const auto& layer = model_.layers[static_cast<size_t>(op.layer)];
  const auto& layout = (*layouts_)[static_cast<size_t>(op.layer)];
  auto& stream = *comm_.compute;
  const auto& scratch = mb.buffers->scratch;
  mb.attention.kv = buffers_.kv[static_cast<size_t>(op.layer)];
  const auto shared_out = [&] {
    const auto x = mb.boundary.ffn_input(layout);
    return scratch.view(ScratchId::kSharedOut, config_.dtype, {x.shape[0], x.shape[1]});
  };
  switch (op.op) {
    case LayerOp::kPrepareAttn:
      prepare_attn(mb, layout, layer);
      break;
    case LayerOp::kAttnPrepare:
      layer.attention->prepare(mb.attention);
      break;
    case LayerOp::kAttnCore:
      layer.attention->core(mb.attention);
      break;
    case LayerOp::kPrepareMlp:
      mb.boundary.start_prepare_mlp(layout, weights_.view(layer.ffn_norm));
      break;
    case LayerOp::kPrepareMlpWait:
      mb.boundary.finish_prepare_mlp(layout, weights_.view(layer.ffn_norm));
      break;
    case LayerOp::kMlp:
      layer.dense->forward(stream, scratch, mb.boundary.ffn_input(layout), mb.boundary.ffn_output(layout));
      break;
    case LayerOp::kGate:
      layer.sparse->gate(stream, scratch, mb.boundary.ffn_input(layout));
      break;
    case LayerOp::kSelectExperts:
      select_experts(mb, layout, *layer.sparse);
      break;
    case LayerOp::kDispatchA:
      dispatch(mb, layout, 0);
      break;
    case LayerOp::kDispatchB:
    case LayerOp::kCombineB:
      mb.boundary.join_wait();
      break;
    case LayerOp::kExperts:
      run_experts(mb, layout, *layer.sparse);
      break;
    case LayerOp::kSharedExperts:
      layer.sparse->shared(stream, scratch, mb.boundary.ffn_input(layout), shared_out());
      break;
    case LayerOp::kCombineA:
      combine(mb, layout, mb.expert_chunks - 1);
      break;
    case LayerOp::kOutput:
      if (has_shared_) {
        const auto out = mb.boundary.ffn_output(layout);
        ops::add(stream, {.out = out, .a = out, .b = shared_out()});
      }
      break;
    case LayerOp::kPostprocess:
      mb.boundary.start_postprocess(layout);
      break;
    case LayerOp::kPostprocessWait:
      mb.boundary.finish_postprocess(layout);
      break;
  }
}

void ForwardPass::prepare_attn(MicroBatch& mb, const LayerLayout& layout, const model::Layer& layer) {
  auto& boundary = mb.boundary;
  const auto& attention = *layer.attention;
  boundary.norm_attn_input(layout, weights_.view(layer.attention_norm));
  auto input = mb.attention.x;
  if (attention.latent_width() > 0) {
    input = attention.latent_rows(mb.attention);
    attention.latents(mb.attention, boundary.attn_input_rows(layout, mb.attention.x),
                      boundary.attn_input_rows(layout, input));
  }
  boundary.gather_attn_input(layout, input);
}

comm::SendRows ForwardPass::send_rows(const MicroBatch& mb, const LayerLayout& layout) const {
  const auto x = mb.boundary.ffn_input(layout);
  const int64_t top_k = model_config_.moe.num_experts_per_tok;
  return {.x = x,
          .ids = mb.buffers->scratch.view(ScratchId::kTopkIds, DType::kI32, {x.shape[0], top_k}),
          .weights = mb.buffers->scratch.view(ScratchId::kTopkWeights, DType::kF32, {x.shape[0], top_k})};
}

int64_t ForwardPass::dispatch_count() const {
  const int64_t rows = dispatch_mode_ == DispatchMode::kLowLatency ? config_.plan.low_latency_rows
                                                                   : config_.plan.normal_chunk_rows;
  return rows * config_.plan.parallel.tp_size * model_config_.hidden_size;
}

void ForwardPass::dispatch(MicroBatch& mb, const LayerLayout& layout, int64_t chunk) {
  ledger_.add(Collective::kDispatch, plan::Group::kTp, config_.dtype, dispatch_count());
  mb.boundary.fork();
  mb.received = comm_.dispatchers[static_cast<size_t>(mb.index)]->dispatch(
      mb.boundary.comm_stream(), dispatch_mode_, chunk, send_rows(mb, layout));
  mb.boundary.join_record();
}

void ForwardPass::combine(MicroBatch& mb, const LayerLayout& layout, int64_t chunk) {
  ledger_.add(Collective::kCombine, plan::Group::kTp, config_.dtype, dispatch_count());
  mb.boundary.fork();
  comm_.dispatchers[static_cast<size_t>(mb.index)]->combine(mb.boundary.comm_stream(), dispatch_mode_, chunk,
                                                            send_rows(mb, layout),
                                                            mb.boundary.ffn_output(layout));
  mb.boundary.join_record();
}

void ForwardPass::select_experts(MicroBatch& mb, const LayerLayout& layout, const model::SparseFfn& ffn) {
  auto& stream = *comm_.compute;
  const auto& scratch = mb.buffers->scratch;
  const int64_t rows = mb.boundary.ffn_input(layout).shape[0];
  if (dispatch_mode_ == DispatchMode::kNone) {
    ffn.select_and_group(stream, scratch, rows, valid_rows(mb, layout));
  } else {
    ffn.select(stream, scratch, rows, valid_rows(mb, layout));
  }
}

void ForwardPass::received_experts(MicroBatch& mb, const model::SparseFfn& ffn) {
  auto& stream = *comm_.compute;
  const auto& scratch = mb.buffers->scratch;
  const auto& r = mb.received;
  const model::ExpertRows rows{.x = r.x, .weights = r.weights, .out = r.out, .num_rows = r.num_rows};
  if (r.masked) {
    ffn.masked_experts(stream, scratch, rows, r.ids);
  } else {
    ffn.group(stream, scratch, r.ids, r.num_rows);
    ffn.experts(stream, scratch, rows);
  }
}

void ForwardPass::run_experts(MicroBatch& mb, const LayerLayout& layout, const model::SparseFfn& ffn) {
  if (dispatch_mode_ != DispatchMode::kNone) {
    received_experts(mb, ffn);
    for (int64_t chunk = 0; chunk + 1 < mb.expert_chunks; ++chunk) {
      combine(mb, layout, chunk);
      dispatch(mb, layout, chunk + 1);
      mb.boundary.join_wait();
      received_experts(mb, ffn);
    }
    return;
  }
  const auto x = mb.boundary.ffn_input(layout);
  const auto& scratch = mb.buffers->scratch;
  ffn.experts(*comm_.compute, scratch,
              {.x = x,
               .weights = scratch.view(ScratchId::kTopkWeights, DType::kF32, {x.shape[0], ffn.top_k()}),
               .out = mb.boundary.ffn_output(layout)});
}

ops::ValidRows ForwardPass::valid_rows(const MicroBatch& mb, const LayerLayout& layout) const {
  const auto* header =
      inputs_.device_i32(inputs_.layout().micro_batches[static_cast<size_t>(mb.index)].header);
  const auto dp = static_cast<int32_t>(sizes_.inputs.attn_dp_size);
  if (layout.mlp == Layout::kScattered) {
    return {header + InputLayout::kZero, header + InputLayout::kScatteredRows, 1};
  }
  if (dp > 1) return {header + InputLayout::kSegments, header + InputLayout::kSegments + dp, dp};
  return {header + InputLayout::kZero, header + InputLayout::kRows, 1};
}

void ForwardPass::logits_pass(const StepPlan& plan, int64_t pass) {
  auto& stream = *comm_.compute;
  const auto& parallel = config_.plan.parallel;
  const int64_t limit = config_.plan.logit_chunk_rows;
  const int64_t begin = pass * limit;
  const auto rows_of = [&](size_t dp) { return std::clamp<int64_t>(plan.logit_rows[dp] - begin, 0, limit); };
  const int64_t rows = rows_of(dp_rank_);
  const auto& layout = inputs_.layout();

  const auto own = buffers_.logit_hidden.rows(0, rows);
  ops::gather_rows(
      stream,
      {.out = own, .x = buffers_.final_hidden, .indices = inputs_.i32(layout.logit_index + begin * 4, rows)});
  // Under sequence-parallel layernorm a row is on one rank, and zeros stand for it on the others.
  if (plan.layernorm_sp) comm_.attn_tp[0]->all_reduce(stream, own, own);
  auto hidden = own;
  int64_t own_begin = 0;
  auto* group =
      parallel.enable_dp_lm_head || parallel.attn_dp_size() == 1 ? comm_.attn_tp[0].get() : comm_.tp[0].get();
  if (buffers_.logit_gathered.defined()) {
    int64_t total = 0;
    std::vector<int64_t> counts;
    for (int r = 0; r < parallel.tp_size; ++r) {
      const auto dp = static_cast<size_t>(parallel.attn_dp_rank(r));
      // Ranks of an attention-TP group hold the same rows; the first sends them.
      counts.push_back(parallel.attn_tp_rank(r) == 0 ? rows_of(dp) : 0);
      if (dp < dp_rank_ && parallel.attn_tp_rank(r) == 0) own_begin += rows_of(dp);
      total += counts.back();
    }
    hidden = buffers_.logit_gathered.rows(0, total);
    comm_.tp[0]->all_gather_v(stream, hidden, own.rows(0, counts[static_cast<size_t>(rank_)]), counts);
  }
  const auto logits = buffers_.logits.rows(0, rows);
  const auto head = weights_.view(model_.lm_head);
  const int64_t total = hidden.shape[0];
  if (model_.lm_head_shards == 1) {
    ops::gemm(stream, {.out = logits, .a = hidden, .w = head, .bias = {}});
  } else {
    const auto shard = buffers_.logit_shard.rows(0, total);
    const auto shards = buffers_.logit_shards.rows(0, model_.lm_head_shards * total);
    ops::gemm(stream, {.out = shard, .a = hidden, .w = head, .bias = {}});
    group->all_gather(stream, shards, shard);
    for (int64_t s = 0; s < model_.lm_head_shards; ++s) {
      const int64_t column = s * model_.lm_head_rows;
      const int64_t columns = std::min(model_.lm_head_rows, model_config_.vocab_size - column);
      if (columns <= 0) break;
      ops::cast(stream, {.out = logits.columns(column, columns),
                         .x = shards.rows(s * total + own_begin, rows).columns(0, columns)});
    }
  }
  const auto* count = inputs_.device_i32(layout.logit_counts) + pass;
  const auto tokens = buffers_.tokens.rows(begin, rows);
  const auto targets = buffers_.targets.rows(begin, rows);
  ops::sample(stream, {.tokens = tokens,
                       .logits = logits,
                       .params = inputs_.sampling_rows() + begin,
                       .num_rows = count,
                       .last_tokens = buffers_.last_tokens,
                       .slots = inputs_.i32(layout.logit_slot + begin * 4, rows),
                       .wanted = inputs_.i32(layout.logit_wanted + begin * 4, rows),
                       .targets = targets});
  ops::logprobs(stream, {.logprobs = buffers_.logprobs.rows(begin, rows),
                         .top_ids = buffers_.top_ids.rows(begin, rows),
                         .top_logprobs = buffers_.top_logprobs.rows(begin, rows),
                         .logits = logits,
                         .targets = targets,
                         .num_top = inputs_.device_i32(layout.logit_top) + begin,
                         .num_rows = count});
}

}  // namespace weft::exec
