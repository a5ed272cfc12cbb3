#include "base/error.h"
#include "model/layers/attention.h"
#include "ops/attention.h"
#include "ops/gemm.h"
#include "ops/rms_norm.h"
#include "ops/rope_write.h"

namespace weft::model {
namespace {

class MlaAttention final : public Attention {
 public:
  MlaAttention(const ModelConfig& config, WeightMap& weights, const std::string& prefix, ShardRank shard)
      : weights_(weights),
        mla_(*config.mla),
        heads_(config.num_attention_heads / shard.size),
        scale_(config.softmax_scale),
        eps_(config.latent_norm_eps),
        interleaved_(config.rope.interleaved),
        dtype_(config.dtype) {
    WEFT_CHECK(
        config.num_attention_heads % shard.size == 0,
        "attention: {} heads cannot be divided over {} ranks; choose --tp-size / --dp-size so that they can",
        config.num_attention_heads, shard.size);
    const int64_t hidden = config.hidden_size;
    const int64_t all_heads = config.num_attention_heads;
    const int64_t qk = mla_.qk_nope_head_dim + mla_.qk_rope_head_dim;
    const int64_t kv = mla_.qk_nope_head_dim + mla_.v_head_dim;
    const int64_t latent = mla_.kv_lora_rank + mla_.qk_rope_head_dim;
    const auto heads_slice = [&](int64_t width) {
      return Slice{shard.rank * heads_ * width, (shard.rank + 1) * heads_ * width};
    };
    if (mla_.q_lora_rank > 0) {
      q_a_ = weights.reserve(prefix + "q_a_proj", dtype_, {mla_.q_lora_rank, hidden});
      weights.fill(q_a_, {prefix + "q_a_proj.weight", {mla_.q_lora_rank, hidden}});
      q_norm_ = weights.reserve(prefix + "q_a_layernorm", dtype_, {mla_.q_lora_rank});
      weights.fill(q_norm_, {prefix + "q_a_layernorm.weight", {mla_.q_lora_rank}});
      q_b_ = weights.reserve(prefix + "q_b_proj", dtype_, {heads_ * qk, mla_.q_lora_rank});
      weights.fill(q_b_, {prefix + "q_b_proj.weight", {all_heads * qk, mla_.q_lora_rank}, {heads_slice(qk)}});
    } else {
      q_b_ = weights.reserve(prefix + "q_proj", dtype_, {heads_ * qk, hidden});
      weights.fill(q_b_, {prefix + "q_proj.weight", {all_heads * qk, hidden}, {heads_slice(qk)}});
    }
    kv_a_ = weights.reserve(prefix + "kv_a_proj_with_mqa", dtype_, {latent, hidden});
    weights.fill(kv_a_, {prefix + "kv_a_proj_with_mqa.weight", {latent, hidden}});
    kv_norm_ = weights.reserve(prefix + "kv_a_layernorm", dtype_, {mla_.kv_lora_rank});
    weights.fill(kv_norm_, {prefix + "kv_a_layernorm.weight", {mla_.kv_lora_rank}});
    kv_b_ = weights.reserve(prefix + "kv_b_proj", dtype_, {heads_ * kv, mla_.kv_lora_rank});
    weights.fill(kv_b_,
                 {prefix + "kv_b_proj.weight", {all_heads * kv, mla_.kv_lora_rank}, {heads_slice(kv)}});
    o_ = weights.reserve(prefix + "o_proj", dtype_, {hidden, heads_ * mla_.v_head_dim});
    weights.fill(o_, {prefix + "o_proj.weight",
                      {hidden, all_heads * mla_.v_head_dim},
                      {Slice{}, heads_slice(mla_.v_head_dim)}});
    if (config.attention_bias) {
      if (mla_.q_lora_rank > 0) {
        q_a_bias_ = weights.reserve(prefix + "q_a_proj.bias", dtype_, {mla_.q_lora_rank});
        weights.fill(q_a_bias_, {prefix + "q_a_proj.bias", {mla_.q_lora_rank}});
      }
      kv_a_bias_ = weights.reserve(prefix + "kv_a_proj_with_mqa.bias", dtype_, {latent});
      weights.fill(kv_a_bias_, {prefix + "kv_a_proj_with_mqa.bias", {latent}});
      o_bias_ = reserve_row_parallel_bias(weights, prefix + "o_proj.bias", dtype_, hidden, shard);
    }
  }

  void need(Scratch& scratch, int64_t max_rows) const override {
    const int64_t row = max_rows * static_cast<int64_t>(dtype_size(dtype_));
    scratch.need(ScratchId::kQuery, row * heads_ * (mla_.qk_nope_head_dim + mla_.qk_rope_head_dim));
    scratch.need(ScratchId::kLatents, row * (mla_.q_lora_rank + kv_width()));
    scratch.need(ScratchId::kQueryAbsorbed, row * heads_ * mla_.kv_lora_rank);
    scratch.need(ScratchId::kAttnLatent, row * heads_ * mla_.kv_lora_rank);
    scratch.need(ScratchId::kAttnOut, row * heads_ * mla_.v_head_dim);
  }

  [[nodiscard]] int64_t latent_width() const override { return mla_.latent_width(); }

  [[nodiscard]] device::TensorView latent_rows(const AttentionContext& c) const override {
    return c.scratch->view(ScratchId::kLatents, dtype_, {c.x.shape[0], mla_.q_lora_rank + kv_width()});
  }

  void latents(const AttentionContext& c, const device::TensorView& x,
               const device::TensorView& out) const override {
    if (q_a_.defined()) {
      const auto q = out.columns(0, mla_.q_lora_rank);
      ops::gemm(*c.stream,
                {.out = q, .a = x, .w = weights_.view(q_a_), .bias = bias_view(weights_, q_a_bias_)});
      ops::rms_norm(*c.stream, {.out = q, .x = q, .weight = weights_.view(q_norm_), .eps = eps_});
    }
    const auto kv = out.columns(mla_.q_lora_rank, kv_width());
    ops::gemm(*c.stream,
              {.out = kv, .a = x, .w = weights_.view(kv_a_), .bias = bias_view(weights_, kv_a_bias_)});
  }

  void prepare(const AttentionContext& c) const override {
    const int64_t rows = c.x.shape[0];
    const auto all_latents = latent_rows(c);
    if (latent_width() == 0) latents(c, c.x, all_latents);
    const auto q = query(c);
    ops::gemm(*c.stream, {.out = q.reshape({rows, heads_ * q.shape[2]}),
                          .a = q_a_.defined() ? all_latents.columns(0, mla_.q_lora_rank) : c.x,
                          .w = weights_.view(q_b_),
                          .bias = {}});
    ops::mla_norm_rope_write(*c.stream, {.q_rope = q.columns(mla_.qk_nope_head_dim, mla_.qk_rope_head_dim),
                                         .latents = all_latents.columns(mla_.q_lora_rank, kv_width()),
                                         .kv_norm = weights_.view(kv_norm_),
                                         .cache = c.kv.latent,
                                         .positions = c.positions,
                                         .slots = c.slots,
                                         .cos_sin = c.cos_sin,
                                         .eps = eps_,
                                         .interleaved = interleaved_});
  }

  void core(const AttentionContext& c) const override {
    const int64_t rows = c.x.shape[0];
    const auto q = query(c);
    const auto q_nope = q.columns(0, mla_.qk_nope_head_dim);
    const auto q_rope = q.columns(mla_.qk_nope_head_dim, mla_.qk_rope_head_dim);
    const auto out = c.scratch->view(ScratchId::kAttnOut, dtype_, {rows, heads_, mla_.v_head_dim});
    const auto kv_b =
        weights_.view(kv_b_).reshape({heads_, mla_.qk_nope_head_dim + mla_.v_head_dim, mla_.kv_lora_rank});
    // Prompts stand first; the decode tail, and all of a decode batch, runs in absorbed form.
    if (c.num_prefill_seqs < c.batch.max_seqs) {
      const auto absorbed =
          c.scratch->view(ScratchId::kQueryAbsorbed, dtype_, {rows, heads_, mla_.kv_lora_rank});
      const auto latent = c.scratch->view(ScratchId::kAttnLatent, dtype_, {rows, heads_, mla_.kv_lora_rank});
      auto w_uk = kv_b;  // [heads, kv_lora_rank, nope]: the transposed reading of W_UK
      w_uk.shape = {heads_, mla_.kv_lora_rank, mla_.qk_nope_head_dim, 0};
      w_uk.stride = {kv_b.stride[0], 1, kv_b.stride[1], 0};
      auto w_uv = kv_b;
      w_uv.data = static_cast<char*>(kv_b.data) +
                  mla_.qk_nope_head_dim * mla_.kv_lora_rank * static_cast<int64_t>(dtype_size(dtype_));
      w_uv.shape = {heads_, mla_.v_head_dim, mla_.kv_lora_rank, 0};
      const int64_t first = c.num_prefill_rows;
      const int64_t count = rows - first;
      ops::batched_gemm(*c.stream,
                        {.out = absorbed.rows(first, count), .a = q_nope.rows(first, count), .w = w_uk});
      ops::mla_decode(*c.stream, {.out = latent,
                                  .q_nope = absorbed,
                                  .q_rope = q_rope,
                                  .cache = c.kv.latent,
                                  .batch = c.batch,
                                  .first_seq = c.num_prefill_seqs,
                                  .scale = scale_});
      ops::batched_gemm(*c.stream,
                        {.out = out.rows(first, count), .a = latent.rows(first, count), .w = w_uv});
    }
    if (c.num_prefill_seqs > 0) {
      ops::mla_prefill(*c.stream, {.out = out,
                                   .q_nope = q_nope,
                                   .q_rope = q_rope,
                                   .cache = c.kv.latent,
                                   .w_kv_b = kv_b,
                                   .batch = c.batch,
                                   .num_prefill_seqs = c.num_prefill_seqs,
                                   .scale = scale_,
                                   .plan = c.prefill_plan,
                                   .workspace = c.prefill_workspace,
                                   .num_kv_tokens = c.num_prefill_kv_tokens});
    }
    ops::gemm(*c.stream, {.out = c.out,
                          .a = out.reshape({rows, heads_ * mla_.v_head_dim}),
                          .w = weights_.view(o_),
                          .bias = bias_view(weights_, o_bias_)});
  }

 private:
  /// Columns of a row's compressed keys and values, and of the rotary key that heads share.
  [[nodiscard]] int64_t kv_width() const { return mla_.kv_lora_rank + mla_.qk_rope_head_dim; }
  [[nodiscard]] device::TensorView query(const AttentionContext& c) const {
    return c.scratch->view(ScratchId::kQuery, dtype_,
                           {c.x.shape[0], heads_, mla_.qk_nope_head_dim + mla_.qk_rope_head_dim});
  }

  const WeightMap& weights_;
  MlaConfig mla_;
  int64_t heads_;
  float scale_, eps_;
  bool interleaved_;
  DType dtype_;
  WeightId q_a_, q_norm_, q_b_, kv_a_, kv_norm_, kv_b_, o_, q_a_bias_, kv_a_bias_, o_bias_;
};

}  // namespace

std::unique_ptr<Attention> make_mla_attention(const ModelConfig& config, WeightMap& weights,
                                              const std::string& prefix, ShardRank shard) {
  return std::make_unique<MlaAttention>(config, weights, prefix, shard);
}

}  // namespace weft::model
