#include "base/error.h"
#include "model/layers/attention.h"
#include "ops/attention.h"
#include "ops/gemm.h"
#include "ops/rope_write.h"

namespace weft::model {
namespace {

class GqaAttention final : public Attention {
 public:
  GqaAttention(const ModelConfig& config, WeightMap& weights, const std::string& prefix, ShardRank shard)
      : weights_(weights),
        head_dim_(config.head_dim),
        q_heads_(config.num_attention_heads / shard.size),
        kv_heads_(kv_heads_of_rank(config, shard.size)),
        scale_(config.softmax_scale),
        eps_(config.rms_norm_eps),
        interleaved_(config.rope.interleaved),
        dtype_(config.dtype) {
    const int64_t hidden = config.hidden_size;
    const int64_t q_rows = q_heads_ * head_dim_;
    const int64_t kv_rows = kv_heads_ * head_dim_;
    // Ranks that share a head read the same rows.
    const int64_t kv_begin = shard.rank * config.num_key_value_heads / shard.size * head_dim_;
    qkv_ = weights.reserve(prefix + "qkv", dtype_, {q_rows + 2 * kv_rows, hidden});
    o_ = weights.reserve(prefix + "o_proj", dtype_, {hidden, q_rows});
    q_norm_ = weights.reserve(prefix + "q_norm", dtype_, {head_dim_});
    k_norm_ = weights.reserve(prefix + "k_norm", dtype_, {head_dim_});
    const int64_t all_q = config.num_attention_heads * head_dim_;
    const int64_t all_kv = config.num_key_value_heads * head_dim_;
    const Slice q{shard.rank * q_rows, (shard.rank + 1) * q_rows};
    const Slice kv{kv_begin, kv_begin + kv_rows};
    weights.fill(qkv_, {prefix + "q_proj.weight", {all_q, hidden}, {q}, -1, 0});
    weights.fill(qkv_, {prefix + "k_proj.weight", {all_kv, hidden}, {kv}, -1, q_rows});
    weights.fill(qkv_, {prefix + "v_proj.weight", {all_kv, hidden}, {kv}, -1, q_rows + kv_rows});
    weights.fill(o_, {prefix + "o_proj.weight", {hidden, all_q}, {Slice{}, q}});
    weights.fill(q_norm_, {prefix + "q_norm.weight", {head_dim_}});
    weights.fill(k_norm_, {prefix + "k_norm.weight", {head_dim_}});
    if (config.attention_bias) {
      qkv_bias_ = weights.reserve(prefix + "qkv.bias", dtype_, {q_rows + 2 * kv_rows});
      weights.fill(qkv_bias_, {prefix + "q_proj.bias", {all_q}, {q}, -1, 0});
      weights.fill(qkv_bias_, {prefix + "k_proj.bias", {all_kv}, {kv}, -1, q_rows});
      weights.fill(qkv_bias_, {prefix + "v_proj.bias", {all_kv}, {kv}, -1, q_rows + kv_rows});
      o_bias_ = reserve_row_parallel_bias(weights, prefix + "o_proj.bias", dtype_, hidden, shard);
    }
  }

  void need(Scratch& scratch, int64_t max_rows) const override {
    const auto size = static_cast<int64_t>(dtype_size(dtype_));
    scratch.need(ScratchId::kQkv, max_rows * (q_heads_ + 2 * kv_heads_) * head_dim_ * size);
    scratch.need(ScratchId::kAttnOut, max_rows * q_heads_ * head_dim_ * size);
  }

  void prepare(const AttentionContext& c) const override {
    const int64_t rows = c.x.shape[0];
    const auto qkv = qkv_view(c);
    ops::gemm(*c.stream,
              {.out = qkv, .a = c.x, .w = weights_.view(qkv_), .bias = bias_view(weights_, qkv_bias_)});
    const auto heads = [&](int64_t first) {
      return qkv.columns(first * head_dim_, kv_heads_ * head_dim_).reshape({rows, kv_heads_, head_dim_});
    };
    ops::qk_norm_rope_write(*c.stream, {.q = query(c),
                                        .k = heads(q_heads_),
                                        .v = heads(q_heads_ + kv_heads_),
                                        .q_norm = weights_.view(q_norm_),
                                        .k_norm = weights_.view(k_norm_),
                                        .k_cache = c.kv.k,
                                        .v_cache = c.kv.v,
                                        .positions = c.positions,
                                        .slots = c.slots,
                                        .cos_sin = c.cos_sin,
                                        .eps = eps_,
                                        .interleaved = interleaved_});
  }

  void core(const AttentionContext& c) const override {
    const int64_t rows = c.x.shape[0];
    const auto out = c.scratch->view(ScratchId::kAttnOut, dtype_, {rows, q_heads_, head_dim_});
    ops::paged_attention(*c.stream, {.out = out,
                                     .q = query(c),
                                     .k_cache = c.kv.k,
                                     .v_cache = c.kv.v,
                                     .batch = c.batch,
                                     .num_prefill_seqs = c.num_prefill_seqs,
                                     .plan = c.prefill_plan,
                                     .scale = scale_});
    ops::gemm(*c.stream, {.out = c.out,
                          .a = out.reshape({rows, q_heads_ * head_dim_}),
                          .w = weights_.view(o_),
                          .bias = bias_view(weights_, o_bias_)});
  }

 private:
  [[nodiscard]] device::TensorView qkv_view(const AttentionContext& c) const {
    return c.scratch->view(ScratchId::kQkv, dtype_, {c.x.shape[0], (q_heads_ + 2 * kv_heads_) * head_dim_});
  }
  [[nodiscard]] device::TensorView query(const AttentionContext& c) const {
    return qkv_view(c).columns(0, q_heads_ * head_dim_).reshape({c.x.shape[0], q_heads_, head_dim_});
  }

  const WeightMap& weights_;
  int64_t head_dim_, q_heads_, kv_heads_;
  float scale_, eps_;
  bool interleaved_;
  DType dtype_;
  WeightId qkv_, o_, q_norm_, k_norm_, qkv_bias_, o_bias_;
};

}  // namespace

std::unique_ptr<Attention> make_gqa_attention(const ModelConfig& config, WeightMap& weights,
                                              const std::string& prefix, ShardRank shard) {
  return std::make_unique<GqaAttention>(config, weights, prefix, shard);
}

int64_t kv_heads_of_rank(const ModelConfig& config, int attn_tp_size) {
  WEFT_CHECK(
      config.num_attention_heads % attn_tp_size == 0,
      "attention: {} heads cannot be divided over {} ranks; choose --tp-size / --dp-size so that they can",
      config.num_attention_heads, attn_tp_size);
  const int64_t heads = config.num_key_value_heads;
  WEFT_CHECK(
      heads % attn_tp_size == 0 || attn_tp_size % heads == 0,
      "attention: {} key/value heads and {} ranks do not divide; choose --tp-size / --dp-size so that one "
      "is a multiple of the other",
      heads, attn_tp_size);
  return heads >= attn_tp_size ? heads / attn_tp_size : 1;
}

}  // namespace weft::model
