#pragma once

#include <string>
#include <string_view>
#include <vector>

/// Good inputs to start from, and pieces of each grammar: for the fuzzers and for the seeded tests alike.
namespace weft::fuzz {

inline const std::vector<std::string>& json_seeds() {
  static const std::vector<std::string> seeds = {
      R"({"architectures": ["X"], "n": [1, -2.5e3, null, true, {"s": "\u00e9\ud83d\ude00\n"}], "m": {}})",
      R"([[[[[[]]]]], "", "\\\"", 0, 1e5, false, {"a": {"b": {"c": [1, 2, 3]}}}])",
  };
  return seeds;
}
inline constexpr std::string_view kJsonPieces[] = {
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\\u",
    "\\ud800",
    "1e309",
    "1e-99",
    "-",
    "null",
    "\xf0\x9f",
    "\xed\xa0\x80",
    "99999999999999999999",
};

/// Whole files: length, header, data.
inline const std::vector<std::string>& safetensors_seeds() {
  static const auto file = [](const std::string& header, size_t num_bytes) {
    std::string bytes(8, '\0');
    bytes[0] = static_cast<char>(header.size() & 0xff);
    bytes[1] = static_cast<char>(header.size() >> 8);
    return bytes + header + std::string(num_bytes, 'x');
  };
  static const std::vector<std::string> seeds = {
      file(R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],)"
           R"("data_offsets":[24,32]},"u":{"dtype":"U8","shape":[1,3],"data_offsets":[32,35]}})",
           35),
      file(R"({"__metadata__":{"format":"pt"},"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
           R"("e":{"dtype":"F16","shape":[0,7],"data_offsets":[8,8]}}  )",
           8),
  };
  return seeds;
}
inline constexpr std::string_view kSafetensorsPieces[] = {
    "9223372036854775807",
    "18446744073709551615",
    "4611686018427387904",
    "-1",
    "0",
    "1e3",
    "[0,0]",
    "[0,24]",
    "[24,32]",
    "[",
    "]",
    "{",
    "}",
    "\"F32\"",
    "\"U8\"",
    "\"dtype\"",
    "null",
    "\"__metadata__\"",
};

/// Configurations of three architectures, small.
inline const std::vector<std::string>& config_seeds() {
  static const std::vector<std::string> seeds = {
      R"({"architectures":["DeepseekV3ForCausalLM"],"bos_token_id":0,"eos_token_id":1,"first_k_dense_replace":1,)"
      R"("hidden_act":"silu","hidden_size":64,"intermediate_size":128,"kv_lora_rank":32,)"
      R"("max_position_embeddings":4096,"moe_intermediate_size":32,"n_group":2,"n_routed_experts":8,)"
      R"("n_shared_experts":1,"norm_topk_prob":true,"num_attention_heads":4,"num_experts_per_tok":2,)"
      R"("num_hidden_layers":3,"num_key_value_heads":4,"q_lora_rank":null,"qk_nope_head_dim":16,)"
      R"("qk_rope_head_dim":8,"rms_norm_eps":1e-06,"rope_scaling":{"beta_fast":32,"beta_slow":1,"factor":40,)"
      R"("mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":128,"type":"yarn"},)"
      R"("rope_theta":10000,"routed_scaling_factor":2.5,"scoring_func":"sigmoid","topk_group":1,)"
      R"("topk_method":"noaux_tc","torch_dtype":"bfloat16","v_head_dim":16,"vocab_size":512})",
      R"({"architectures":["Qwen3MoeForCausalLM"],"decoder_sparse_step":2,"eos_token_id":[3,4],"head_dim":16,)"
      R"("hidden_size":64,"intermediate_size":128,"max_position_embeddings":512,"mlp_only_layers":[1],)"
      R"("moe_intermediate_size":32,"norm_topk_prob":true,"num_attention_heads":4,"num_experts":8,)"
      R"("num_experts_per_tok":2,"num_hidden_layers":4,"num_key_value_heads":2,"vocab_size":512,)"
      R"("rope_parameters":{"rope_theta":1e6,"rope_type":"llama3","factor":8,"low_freq_factor":1,)"
      R"("high_freq_factor":4,"original_max_position_embeddings":64},"use_sliding_window":false,"dtype":"float16"})",
      R"({"architectures":["Qwen3ForCausalLM"],"attention_bias":true,"hidden_size":48,"intermediate_size":96,)"
      R"("layer_types":["full_attention","full_attention"],"max_position_embeddings":512,"num_attention_heads":6,)"
      R"("num_hidden_layers":2,"rope_parameters":{"rope_type":"linear","factor":2},"vocab_size":128})",
  };
  return seeds;
}
inline constexpr std::string_view kConfigPieces[] = {
    "-1", "0", "1e308", "1e-300", "9223372036854775807", "null", "true", "{}", "[]", "\"x\"", "1000000",
};

}  // namespace weft::fuzz
