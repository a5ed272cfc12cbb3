#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/dispatch.h"
#include "exec/inputs.h"
#include "exec/rank_worker.h"
#include "model/model.h"
#include "model/scratch.h"

namespace weft::exec {

/// Every capacity of a rank, from the configuration alone.
struct RankSizes {
  RankSizes(const ExecConfig& config, const model::ModelConfig& model);

  int64_t rows = 0;                 // of one micro-batch, padding included
  int64_t slice_rows = 0;           // of one micro-batch when scattered
  int64_t gathered_rows = 0;        // of a gathered micro-batch; 0 if DP ranks never gather
  int64_t logit_rows = 0;           // of one step
  int64_t logit_pass_rows = 0;      // own rows of one pass of the LM head
  int64_t logit_gathered_rows = 0;  // rows of all DP ranks in one pass
  bool dispatched = false;
  InputSizes inputs;
  comm::DispatchConfig dispatch;
};

/// Activations of one micro-batch.
struct MicroBatchBuffers {
  device::TensorView x, residual, h;          // [rows, hidden]
  device::TensorView gathered, gathered_out;  // [gathered_rows, hidden]; undefined if there are none
  device::TensorView prefill_plan;       // i32; of ops::plan_prefill; undefined: no kernel has a use for it
  device::TensorView prefill_workspace;  // u8; of ops::mla_prefill; undefined likewise
  model::Scratch scratch;
  void* dispatch_control = nullptr;
  void* dispatch_rows = nullptr;
};

/// All memory of a rank but its weights. With an allocator that only counts it is the memory ledger.
///
/// Names start with "work/" for what no step may read before it writes, "kv/" for the cache, "state/" for
/// what lasts.
struct RankBuffers {
  RankBuffers(const ExecConfig& config, const model::ModelConfig& model_config, const model::Model& model,
              const RankSizes& sizes, const model::Allocate& allocate);

  std::array<MicroBatchBuffers, 2> micro_batches;
  device::TensorView final_hidden;           // [2 * rows, hidden]
  device::TensorView logit_hidden;           // [logit_pass_rows, hidden]
  device::TensorView logit_gathered;         // [logit_gathered_rows, hidden]
  device::TensorView logit_shard;            // f32 [logit_gathered_rows, shard]
  device::TensorView logit_shards;           // f32 [shards * logit_gathered_rows, shard]
  device::TensorView logits;                 // f32 [logit_pass_rows, vocab]
  device::TensorView tokens, targets;        // i32 [logit_rows]
  device::TensorView logprobs;               // f32 [logit_rows]
  device::TensorView top_ids, top_logprobs;  // [logit_rows, max_top]
  device::TensorView last_tokens;            // i32 [slots]
  device::TensorView stamps;                 // i64 [StageMarks::max_stamps]
  device::TensorView cos_sin;                // f32 [max_context, rope_dim]
  std::vector<model::KvLayer> kv;
  void* inputs = nullptr;  // InputLayout::num_bytes
};

}  // namespace weft::exec
