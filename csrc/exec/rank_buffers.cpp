#include "exec/rank_buffers.h"

#include <algorithm>

#include "base/math.h"
#include "exec/stage_times.h"
#include "ops/attention.h"

namespace weft::exec {

using device::make_view;

namespace {

// Room to expand the keys of a chunk and of a prefix three times as long, or of as many prompts.
constexpr int64_t kExpandedTokensPerRow = 4;

int64_t prefill_workspace_bytes(const ExecConfig& config, const model::ModelConfig& model, int64_t rows) {
  if (!model.is_mla() || config.dtype != DType::kBF16) return 0;
  const int64_t cached = config.num_pages * config.page_size;
  return ops::mla_prefill_workspace(std::min(rows * kExpandedTokensPerRow, cached),
                                    model.num_attention_heads / config.plan.parallel.attn_tp_size(),
                                    model.mla->kv_lora_rank);
}

}  // namespace

RankSizes::RankSizes(const ExecConfig& config, const model::ModelConfig& model) {
  const auto& parallel = config.plan.parallel;
  const int64_t attn_tp = parallel.attn_tp_size();
  const auto& buckets = config.plan.graph_buckets;
  const int64_t largest = std::max(config.max_tokens, buckets.empty() ? 0 : buckets.back());
  rows = round_up(largest, attn_tp);
  slice_rows = rows / attn_tp;
  gathered_rows = parallel.require_mlp_tp_gather() ? rows * parallel.attn_dp_size() : 0;
  logit_rows = rows;
  logit_pass_rows = std::min(rows, config.plan.logit_chunk_rows);
  const bool gathers_logits = parallel.attn_dp_size() > 1 && !parallel.enable_dp_lm_head;
  logit_gathered_rows = logit_pass_rows * (gathers_logits ? parallel.attn_dp_size() : 1);
  dispatched = parallel.a2a_backend != plan::A2aBackend::kNone && model.has_sparse_layer();
  inputs = {.max_tokens = rows,
            .max_seqs = config.max_seqs,
            .max_pages = ceil_div(config.max_context, config.page_size),
            .max_logit_rows = logit_rows,
            .max_logit_passes = std::max<int64_t>(1, ceil_div(logit_rows, config.plan.logit_chunk_rows)),
            .attn_dp_size = parallel.attn_dp_size()};
  dispatch = {.hidden = model.hidden_size,
              .top_k = model.moe.num_experts_per_tok,
              .num_local_experts = model.moe.num_experts / parallel.ep_size,
              .normal_rows = config.plan.normal_chunk_rows,
              .low_latency_rows = config.plan.low_latency_rows,
              .dtype = config.dtype};
}

RankBuffers::RankBuffers(const ExecConfig& config, const model::ModelConfig& model_config,
                         const model::Model& model, const RankSizes& sizes, const model::Allocate& allocate) {
  const int64_t hidden = model_config.hidden_size;
  const DType dtype = config.dtype;
  const auto tensor = [&](std::string_view name, DType type, std::initializer_list<int64_t> shape) {
    const auto shaped = make_view(nullptr, type, shape);
    auto view = shaped;
    view.data = allocate(name, shaped.numel() * static_cast<int64_t>(dtype_size(type)));
    return view;
  };
  const int world = config.plan.parallel.tp_size;
  const size_t num_micro_batches = config.plan.parallel.enable_two_batch_overlap ? 2 : 1;
  for (size_t m = 0; m < num_micro_batches; ++m) {
    auto& mb = micro_batches[m];
    mb.x = tensor("work/x", dtype, {sizes.rows, hidden});
    mb.residual = tensor("work/residual", dtype, {sizes.rows, hidden});
    mb.h = tensor("work/h", dtype, {sizes.rows, hidden});
    if (config.backend == device::Backend::kCuda) {
      mb.prefill_plan =
          tensor("work/prefill_plan", DType::kI32, {ops::prefill_plan_size(sizes.rows, config.max_seqs)});
      if (const int64_t size = prefill_workspace_bytes(config, model_config, sizes.rows); size > 0) {
        mb.prefill_workspace = tensor("work/prefill_workspace", DType::kU8, {size});
      }
    }
    if (sizes.gathered_rows > 0) {
      mb.gathered = tensor("work/gathered", dtype, {sizes.gathered_rows, hidden});
      mb.gathered_out = tensor("work/gathered_out", dtype, {sizes.gathered_rows, hidden});
    }
    const int64_t full_rows = std::max(sizes.rows, sizes.gathered_rows);
    const int64_t normal = sizes.dispatched ? sizes.dispatch.normal_rows * world : 0;
    const int64_t masked = sizes.dispatched ? sizes.dispatch.low_latency_rows * world : 0;
    for (const auto& layer : model.layers) {
      layer.attention->need(mb.scratch, sizes.rows);
      if (layer.dense) layer.dense->need(mb.scratch, full_rows);
      if (layer.sparse) {
        layer.sparse->need(mb.scratch, full_rows, sizes.dispatched ? normal : full_rows, masked);
      }
    }
    mb.scratch.allocate([&](std::string_view name, int64_t num_bytes) {
      return allocate("work/" + std::string(name), num_bytes);
    });
    if (sizes.dispatched) {
      const auto bytes = comm::dispatch_bytes(sizes.dispatch, world);
      mb.dispatch_control = allocate("state/dispatch", bytes.control);
      mb.dispatch_rows = allocate("work/dispatch_rows", bytes.rows);
    }
  }
  final_hidden =
      tensor("work/final_hidden", dtype, {static_cast<int64_t>(num_micro_batches) * sizes.rows, hidden});
  logit_hidden = tensor("work/logit_hidden", dtype, {sizes.logit_pass_rows, hidden});
  if (sizes.logit_gathered_rows > sizes.logit_pass_rows) {
    logit_gathered = tensor("work/logit_gathered", dtype, {sizes.logit_gathered_rows, hidden});
  }
  if (model.lm_head_shards > 1) {
    logit_shard = tensor("work/logit_shard", DType::kF32, {sizes.logit_gathered_rows, model.lm_head_rows});
    logit_shards = tensor("work/logit_shards", DType::kF32,
                          {model.lm_head_shards * sizes.logit_gathered_rows, model.lm_head_rows});
  }
  logits = tensor("work/logits", DType::kF32, {sizes.logit_pass_rows, model_config.vocab_size});
  tokens = tensor("work/tokens", DType::kI32, {sizes.logit_rows});
  targets = tensor("work/targets", DType::kI32, {sizes.logit_rows});
  logprobs = tensor("work/logprobs", DType::kF32, {sizes.logit_rows});
  const int64_t max_top = std::max<int64_t>(1, config.max_top_logprobs);
  top_ids = tensor("work/top_ids", DType::kI32, {sizes.logit_rows, max_top});
  top_logprobs = tensor("work/top_logprobs", DType::kF32, {sizes.logit_rows, max_top});
  last_tokens = tensor("state/last_tokens", DType::kI32, {config.max_seqs});
  stamps = tensor("state/stamps", DType::kI64, {StageMarks::max_stamps(model_config.num_hidden_layers)});
  cos_sin = tensor("state/rope", DType::kF32, {config.max_context, model_config.rope.rope_dim});
  inputs = allocate("state/inputs", InputLayout(sizes.inputs).num_bytes);

  const int64_t slots = config.num_pages * config.page_size;
  for (int64_t layer = 0; layer < model_config.num_hidden_layers; ++layer) {
    model::KvLayer cache;
    if (model_config.is_mla()) {
      cache.latent = tensor("kv/latent", dtype,
                            {slots, model_config.mla->kv_lora_rank + model_config.mla->qk_rope_head_dim});
    } else {
      const int64_t heads = model::kv_heads_of_rank(model_config, config.plan.parallel.attn_tp_size());
      cache.k = tensor("kv/k", dtype, {slots, heads, model_config.head_dim});
      cache.v = tensor("kv/v", dtype, {slots, heads, model_config.head_dim});
    }
    kv.push_back(cache);
  }
}

}  // namespace weft::exec
