#pragma once

#include "ops/common.h"

/// Attention of a batch's query rows over its pages. Tensors are f32, bf16 or f16, each on its own (only
/// k_cache and v_cache must agree); rows are dense, outer strides are free; sums are f32. Rows outside every
/// sequence are not written, and nothing is read beyond a sequence's kv_len. No sequence, or none with query
/// rows: nothing happens. Throws when run if the batch contradicts itself or the tensors, naming the
/// sequence.
///
/// The batch, and what the cache holds of sequences behind num_prefill_seqs (first_seq) before their query
/// rows, are read before kernels ahead in the stream have ended: what writes them must be a copy or
/// scatter_blocks, or stand before one, an event or a replay.
namespace weft::ops {

struct PrefillPlanArgs {
  TensorView plan;               // i32 [prefill_plan_size(num_tokens, batch.max_seqs)] or more
  SequenceBatch batch;           // of the step
  int32_t num_prefill_seqs = 0;  // sequences [0, min(num_prefill_seqs, num_seqs)) are planned
  int64_t num_tokens = 0;        // rows of the step
  int64_t num_slots = 0;         // of the caches
};
/// True if this build has kernels for prompts that need a plan, and `device` runs them.
[[nodiscard]] bool has_prefill_plan(const device::Device& device);
/// int32 values that the plan of a step of up to so many rows and sequences takes; 0 in a build without CUDA.
[[nodiscard]] int64_t prefill_plan_size(int64_t max_tokens, int64_t max_seqs);
/// Cuts the prompts of a step into tiles, which attention in all its layers then runs. Reads the batch in
/// device memory, and throws when run as attention does: a planned batch is not looked at again. CUDA alone.
void plan_prefill(Stream& stream, const PrefillPlanArgs& args);

struct PagedAttentionArgs {
  TensorView out;      // [num_tokens, q_heads, head_dim]
  TensorView q;        // [num_tokens, q_heads, head_dim], may be strided
  TensorView k_cache;  // [num_slots, kv_heads, head_dim]; slot = page * page_size + offset
  TensorView v_cache;  // [num_slots, kv_heads, head_dim]
  SequenceBatch batch;
  int32_t num_prefill_seqs = 0;  // host: sequences before the decode tail, which has few query rows each
  TensorView plan = {};          // i32, of plan_prefill for this batch; undefined: none
  float scale = 1.0F;
};
/// Causal attention over paged keys and values: prefill, decode and mixed rows alike; q_heads is a multiple
/// of kv_heads. A row has the same bits in every batch, page size and chunking of its sequence, decode
/// included; on a GPU, in every batch of equal max_seqs and num_prefill_seqs. The rows of planned sequences
/// may have other bits than without a plan.
void paged_attention(Stream& stream, const PagedAttentionArgs& args);

struct MlaDecodeArgs {
  TensorView out;     // [num_tokens, heads, kv_lora_rank]: attention over latents
  TensorView q_nope;  // [num_tokens, heads, kv_lora_rank]: q_nope already times W_UK (absorbed)
  TensorView q_rope;  // [num_tokens, heads, rope_dim], rotated
  TensorView cache;   // [num_slots, kv_lora_rank + rope_dim]: normed latent, then rotated key
  SequenceBatch batch;
  int32_t first_seq = 0;  // sequences [first_seq, num_seqs) are computed; q rows are the whole batch's
  float scale = 1.0F;
};
/// Multi-head latent attention in absorbed form, for sequences with few query rows: `out` times W_UV is
/// what mla_prefill gives, but for rounding. A row has the same bits in every batch and page size.
void mla_decode(Stream& stream, const MlaDecodeArgs& args);

struct MlaPrefillArgs {
  TensorView out;     // [num_tokens, heads, v_dim]
  TensorView q_nope;  // [num_tokens, heads, nope_dim], may be strided
  TensorView q_rope;  // [num_tokens, heads, rope_dim], may be strided, rotated
  TensorView cache;   // [num_slots, kv_lora_rank + rope_dim]
  TensorView w_kv_b;  // [heads, nope_dim + v_dim, kv_lora_rank]: W_UK, then W_UV of each head
  SequenceBatch batch;
  int32_t num_prefill_seqs = 0;  // sequences [0, min(num_prefill_seqs, num_seqs)) are computed
  float scale = 1.0F;
  TensorView plan = {};  // i32, of plan_prefill for this batch, as many rows and sequences; undefined: none
  TensorView workspace =
      {};  // u8 [mla_prefill_workspace(..)] or more, for kernels with a plan; undefined: none
  int64_t num_kv_tokens = 0;  // host: with a plan, keys of the computed sequences together
};
/// Bytes that kernels with a plan take to expand so many keys; 0 in builds without such kernels.
[[nodiscard]] int64_t mla_prefill_workspace(int64_t num_kv_tokens, int64_t heads, int64_t kv_lora_rank);
/// Multi-head latent attention with keys and values expanded from the latents (in f32, never rounded, or with
/// a plan and a workspace that holds them, in the dtype), for prompts and chunks with a prefix in the cache.
/// A row has the same bits in every batch, page size and chunking; but with a plan, others than without.
void mla_prefill(Stream& stream, const MlaPrefillArgs& args);

}  // namespace weft::ops
