#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "exec/scripted_model.h"

namespace weft::exec::testing {

inline const char* const kDeepseekV3 = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 97, "hidden_size": 48,
  "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 8, "routed_scaling_factor": 1.5,
  "kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 10,
  "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "norm_topk_prob": true,
  "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu", "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float32"})";

inline const char* const kQwen3Moe = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 101, "hidden_size": 40,
  "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 8,
  "num_key_value_heads": 2, "head_dim": 8, "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true,
  "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32"})";

/// What one request gave.
struct Generated {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;        // of the tokens
  std::vector<float> input_logprobs;  // of the prompt, from its second token on

  bool operator==(const Generated&) const = default;
};

struct Script {
  int num_requests = 6;
  int first_request = 0;  // requests first_request, first_request + 1, ...
  int64_t chunk = 16;     // prefill tokens of one DP rank in one step
  bool mixed = false;     // decode rows go along with prompts
  int64_t new_tokens = 6;
  bool overlap = true;  // a step is submitted while the one before it runs
};

/// Prompts of request i: lengths 1, 2, primes and longer ones, from a fixed seed.
std::vector<int32_t> prompt_of(int request, int64_t vocab);

/// Runs the script to its end, requests spread over DP ranks in turn; returns what each gave.
std::map<int64_t, Generated> generate(ScriptedModel& model, const Script& script, int dp_size);

}  // namespace weft::exec::testing
