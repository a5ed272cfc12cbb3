#pragma once

#include "ops/common.h"

/// Rotary position embedding, the norms before it and the write into the paged cache after it: all that
/// stands between the projections of a layer and its attention.
///
/// A slot is page * page_size + offset in the page. Every scaling variant of rope lives in the cos_sin table:
/// rope_dim / 2 cosines, then as many sines. Pairs are (2i, 2i + 1) as in DeepSeek if `interleaved`, else
/// (i, i + rope_dim / 2).
///
/// Position -1: the row is not rotated. Slot -1: nothing of it is written to the cache; padding rows have
/// that. Both ops throw (when run) if another position or slot is out of range.
///
/// positions, slots and cos_sin are read before kernels ahead in the stream have ended: what writes them must
/// be a copy or scatter_blocks, which no kernel behind them overlaps, or stand before an event or a replay.
namespace weft::ops {

struct QkNormRopeWriteArgs {
  TensorView q;              // [num_tokens, q_heads, head_dim], may be strided; normed and rotated in place
  TensorView k;              // [num_tokens, kv_heads, head_dim], may be strided; read
  TensorView v;              // [num_tokens, kv_heads, head_dim], may be strided; read
  TensorView q_norm;         // [head_dim], a weight; undefined: q is not normed
  TensorView k_norm;         // [head_dim], a weight; undefined: k is not normed
  TensorView k_cache;        // [num_slots, kv_heads, head_dim]; k_cache[slots[t]] = rope(norm(k[t]))
  TensorView v_cache;        // [num_slots, kv_heads, head_dim]; v_cache[slots[t]] = v[t]
  TensorView positions;      // i32 [num_tokens]
  TensorView slots;          // i32 [num_tokens]
  TensorView cos_sin;        // f32 [max_positions, head_dim]
  float eps = 1e-6F;         // of the norms
  bool interleaved = false;  // which pairs are rotated
};
/// RMSNorm of each head, rounded to its dtype; then rope.
void qk_norm_rope_write(Stream& stream, const QkNormRopeWriteArgs& args);

struct MlaNormRopeWriteArgs {
  TensorView q_rope;         // [num_tokens, heads, rope_dim], may be strided; rotated in place
  TensorView latents;        // [num_tokens, kv_lora_rank + rope_dim], may be strided; read
  TensorView kv_norm;        // [kv_lora_rank], a weight
  TensorView cache;          // [num_slots, kv_lora_rank + rope_dim]
  TensorView positions;      // i32 [num_tokens]
  TensorView slots;          // i32 [num_tokens]
  TensorView cos_sin;        // f32 [max_positions, rope_dim]
  float eps = 1e-6F;         // of the norm
  bool interleaved = false;  // which pairs are rotated
};
/// cache[slots[t]] = the compressed key and value, normed, and behind them the rotated key of all heads.
void mla_norm_rope_write(Stream& stream, const MlaNormRopeWriteArgs& args);

}  // namespace weft::ops
