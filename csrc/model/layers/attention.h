#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/device.h"
#include "model/config.h"
#include "model/scratch.h"
#include "model/weight_map.h"
#include "ops/common.h"

namespace weft::model {

/// This rank's place in a group that a weight is sharded over.
struct ShardRank {
  int size = 1;
  int rank = 0;
};

/// A bias that is added before a reduction: rank 0 reads it, the others add zeros.
WeightId reserve_row_parallel_bias(WeightMap& weights, const std::string& name, DType dtype, int64_t size,
                                   ShardRank shard);
/// The bias, or an undefined view.
inline device::TensorView bias_view(const WeightMap& weights, WeightId bias) {
  return bias.defined() ? weights.view(bias) : device::TensorView{};
}

/// One layer's part of the KV cache, [num_slots, ...] views. GQA uses k and v, MLA only latent.
struct KvLayer {
  device::TensorView k, v;    // [num_slots, kv_heads, head_dim]
  device::TensorView latent;  // [num_slots, kv_lora_rank + rope_dim]
};

/// What an attention part works on in one stage. Rows are one micro-batch's, padding included.
struct AttentionContext {
  device::Stream* stream = nullptr;
  const Scratch* scratch = nullptr;
  device::TensorView x;          // [rows, hidden]: normed; only own rows if latents are gathered
  device::TensorView out;        // [rows, hidden]: a partial sum over the attention-TP group
  device::TensorView positions;  // i32 [rows]
  device::TensorView slots;      // i32 [rows]; -1 on padding
  device::TensorView cos_sin;    // f32 [max_positions, rope_dim]
  ops::SequenceBatch batch;
  KvLayer kv;
  device::TensorView prefill_plan;       // i32, of ops::plan_prefill; undefined: none
  device::TensorView prefill_workspace;  // u8, of ops::mla_prefill; undefined: none
  int64_t num_prefill_kv_tokens = 0;     // host: keys of the sequences before the decode tail
  int32_t num_prefill_seqs = 0;          // host: sequences before the decode tail
  int64_t num_prefill_rows = 0;          // host: their rows
};

/// An attention part: needs its rows, or their latents, on every rank of the attention-TP group, leaves a
/// partial sum. Heads are sharded over the group.
class Attention {
 public:
  virtual ~Attention() = default;
  /// Columns of a row's latents: what prepare() needs of a row, and what the one rank that has the row can
  /// compute alone. 0: prepare() needs the rows themselves, and the two functions below are not called.
  [[nodiscard]] virtual int64_t latent_width() const { return 0; }
  /// [rows, latent_width] of scratch, contiguous: all rows must be there before prepare().
  [[nodiscard]] virtual device::TensorView latent_rows(const AttentionContext& /*context*/) const {
    return {};
  }
  /// out [n, latent_width] = latents of x [n, hidden], any of the rows.
  virtual void latents(const AttentionContext& /*context*/, const device::TensorView& /*x*/,
                       const device::TensorView& /*out*/) const {}
  /// Projections, norms, rope, and the write of keys and values.
  virtual void prepare(const AttentionContext& context) const = 0;
  /// Attention and the output projection.
  virtual void core(const AttentionContext& context) const = 0;
  /// States what prepare and core keep in scratch for up to max_rows rows.
  virtual void need(Scratch& scratch, int64_t max_rows) const = 0;
};

/// Grouped-query attention with a norm on each query and key head (Qwen3). prefix:
/// "model.layers.3.self_attn.".
std::unique_ptr<Attention> make_gqa_attention(const ModelConfig& config, WeightMap& weights,
                                              const std::string& prefix, ShardRank shard);
/// Multi-head latent attention (DeepSeek): latents are shared by all heads; absorbed for decode sequences.
std::unique_ptr<Attention> make_mla_attention(const ModelConfig& config, WeightMap& weights,
                                              const std::string& prefix, ShardRank shard);

/// Key/value heads of one rank; a head is replicated where there are fewer than ranks. Throws if heads do not
/// divide.
int64_t kv_heads_of_rank(const ModelConfig& config, int attn_tp_size);

}  // namespace weft::model
