#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "ops/moe.h"

/// What config.json says of a model, checked, with the derived values that transformers computes from it.
/// Fields have config.json's names where they have one. Whatever a config asks and weft lacks is an Error
/// that names the field, its value and what to do; no field is ignored that would change a number.
namespace weft::model {

enum class Architecture : uint8_t {
  kDeepseekV2,  // DeepseekV2ForCausalLM
  kDeepseekV3,  // DeepseekV3ForCausalLM
  kQwen3,       // Qwen3ForCausalLM
  kQwen3Moe,    // Qwen3MoeForCausalLM
};

enum class RopeType : uint8_t { kDefault, kLinear, kYarn, kLlama3 };

/// Rotary embedding: what rope_table.h needs.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double rope_theta = 10000.0;
  int64_t rope_dim = 0;           // rotated elements of a head: head_dim, or qk_rope_head_dim under MLA; even
  bool interleaved = false;       // pairs (2i, 2i + 1) as in DeepSeek, else (i, i + rope_dim / 2)
  double attention_factor = 1.0;  // multiplies cosines and sines (yarn; 1 otherwise)
  double factor = 1.0;            // linear, yarn, llama3: how much longer the context became
  int64_t original_max_position_embeddings = 0;  // yarn, llama3
  double beta_fast = 32.0;                       // yarn
  double beta_slow = 1.0;                        // yarn
  bool truncate = true;                          // yarn: round the correction range to whole dimensions
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3
};

/// Multi-head latent attention (DeepSeek).
struct MlaConfig {
  int64_t q_lora_rank = 0;  // 0: queries have no low-rank step (q_proj instead of q_a_proj, q_b_proj)
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;

  /// Of a row, what all heads share: the latents of its query and of its key and value. 0 if queries have no
  /// low-rank step: their projection, divided by heads, needs the row itself.
  [[nodiscard]] int64_t latent_width() const {
    return q_lora_rank == 0 ? 0 : q_lora_rank + kv_lora_rank + qk_rope_head_dim;
  }
};

/// Routed and shared experts; num_experts == 0 means that the model has no sparse layer.
struct MoeConfig {
  int64_t num_experts = 0;            // n_routed_experts, num_experts
  int64_t num_experts_per_tok = 0;    // top-k
  int64_t moe_intermediate_size = 0;  // of one routed expert
  int64_t n_shared_experts = 0;       // shared width is n_shared_experts * moe_intermediate_size; 0: none
  ops::Scoring scoring = ops::Scoring::kSoftmax;
  ops::GroupScore group_score = ops::GroupScore::kNone;
  int64_t n_group = 1;               // 1 unless group_score says otherwise
  int64_t topk_group = 1;            // groups that a token may choose from
  bool has_correction_bias = false;  // mlp.gate.e_score_correction_bias (f32), added for the choice alone
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1.0F;
  bool router_in_f32 = false;  // DeepSeek computes router logits in f32, Qwen3-MoE in the model's dtype

  [[nodiscard]] int64_t shared_intermediate_size() const { return n_shared_experts * moe_intermediate_size; }
};

struct ModelConfig {
  Architecture architecture = Architecture::kQwen3;
  std::string architecture_name;  // as in config.json

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of dense layers
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;      // == num_attention_heads under MLA
  int64_t head_dim = 0;                 // of a query; under MLA qk_nope_head_dim + qk_rope_head_dim
  int64_t max_position_embeddings = 0;  // longest context, with scaling
  float rms_norm_eps = 1e-6F;
  /// DeepSeek's q_a_layernorm and kv_a_layernorm: transformers gives them 1e-6 whatever rms_norm_eps is.
  float latent_norm_eps = 1e-6F;
  /// Biases. Qwen3: q_proj, k_proj, v_proj, o_proj. DeepSeek: q_a_proj, kv_a_proj_with_mqa, o_proj, but not
  /// q_proj.
  bool attention_bias = false;
  bool tie_word_embeddings = false;  // lm_head shares embed_tokens; the checkpoint may lack lm_head.weight
  DType dtype = DType::kF32;   // `dtype` or `torch_dtype`: f32, bf16 or f16; f32 if the config names none
  float softmax_scale = 1.0F;  // head_dim^-0.5; DeepSeek: times yarn's mscale squared

  RopeConfig rope;
  std::optional<MlaConfig> mla;  // set for DeepSeek
  MoeConfig moe;
  std::vector<bool> sparse_layers;       // [num_hidden_layers]; all false for a dense model
  int64_t num_nextn_predict_layers = 0;  // MTP layers that a checkpoint may carry as model.layers.<n>, unused

  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;  // in the config's order; may be empty

  [[nodiscard]] bool is_mla() const { return mla.has_value(); }
  /// True if layer's FFN is a mixture of experts; layer in [0, num_hidden_layers).
  [[nodiscard]] bool is_sparse(int64_t layer) const { return sparse_layers[static_cast<size_t>(layer)]; }
  [[nodiscard]] bool has_sparse_layer() const;
};

/// Parses the text of a config.json, of the hub (rope_theta, rope_scaling, torch_dtype) or of transformers 5
/// (rope_parameters, dtype). `source` stands in messages. Throws Error.
[[nodiscard]] ModelConfig parse_config(std::string_view text, std::string_view source = "config.json");

/// parse_config of `folder`/config.json.
[[nodiscard]] ModelConfig load_config(const std::string& folder);

}  // namespace weft::model
