#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "plan/graph_buckets.h"
#include "runtime/simulate/scenario.h"

namespace weft::runtime::simulate {

/// Seeded configurations that the runtime accepts, on tiny models that divide as they need, with a stream of
/// requests.
class RandomScenario {
 public:
  explicit RandomScenario(uint64_t seed) : rng_(seed), seed_(seed) {}

  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng_);
  }
  bool chance(double p) { return std::bernoulli_distribution(p)(rng_); }
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }

  Scenario scenario(int64_t num_steps) {
    Scenario s;
    s.seed = seed_;
    parallel(s.config);
    s.model = model(s.config);
    sizes(s.config);
    s.stop_chance = pick({0.0, 0.05, 0.3});
    s.intents = random_intents(s.config, {.num_steps = num_steps,
                                          .max_prompt = s.config.context_length / 2,
                                          .max_new_tokens = between(1, 40),
                                          .seed = rng_()});
    return s;
  }

 private:
  void parallel(RuntimeConfig& c) {
    c.tp_size = pick({2, 3, 4, 6, 8, 8, 12, 16, 16, 32, 64});
    if (chance(0.8)) {
      c.enable_dp_attention = true;
      std::vector<int> divisors;
      for (int d = 1; d <= c.tp_size; ++d) {
        if (c.tp_size % d == 0) divisors.push_back(d);
      }
      c.dp_size = divisors[static_cast<size_t>(between(0, static_cast<int64_t>(divisors.size()) - 1))];
    }
    moe_ = chance(0.8);
    if (moe_ && chance(0.65)) {
      c.moe_a2a_backend = "deepep";
      c.ep_size = c.tp_size;
      c.deepep_mode = pick<const char*>({"auto", "auto", "normal", "low_latency"});
    } else if (moe_ && chance(0.5)) {
      c.ep_size = c.tp_size;
    }
    if (chance(0.4)) c.moe_dense_tp_size = 1;
    c.enable_dp_lm_head = c.enable_dp_attention && chance(0.5);
    // The only configurations that gather nothing, so that each rank chooses its own bucket.
    if (c.enable_dp_attention && c.moe_a2a_backend == "deepep" && chance(0.4)) {
      c.moe_dense_tp_size = 1;
      c.enable_dp_lm_head = true;
    }
    c.enable_two_batch_overlap = chance(0.65);
    c.enable_layernorm_sp = c.tp_size > (c.enable_dp_attention ? c.dp_size : 1) && chance(0.4);
    c.tbo_token_distribution_threshold = pick({0.48, 0.48, 0.0, 0.3, 0.5});
    c.tbo_policy = chance(0.75) ? "any" : "sglang";
    c.tbo_gate = chance(0.8) ? "auto" : "always";
    if (chance(0.3)) c.tbo_cost_table = cost_table();
  }

  plan::TboCostTable cost_table() {
    plan::TboCostTable table;
    for (int64_t tokens = between(1, 8); tokens < 100; tokens += between(1, 60)) {
      table.tokens.push_back(tokens);
      for (auto* cost : {&table.compute_us, &table.dispatch_us, &table.combine_us}) {
        cost->push_back(static_cast<double>(between(0, 20) + tokens * between(0, 3)));
      }
    }
    return table;
  }

  model::ModelConfig model(const RuntimeConfig& c) {
    const int64_t attn_tp = c.tp_size / (c.enable_dp_attention ? c.dp_size : 1);
    const int64_t heads = attn_tp * pick<int64_t>({1, 2});
    const int64_t kv_heads = chance(0.3) ? 1 : chance(0.5) ? attn_tp : heads;
    const int64_t layers = between(1, 4);
    const int64_t experts = c.tp_size * pick<int64_t>({1, 2});
    const std::string common = fmt::format(
        R"("vocab_size": {}, "hidden_size": 16, "intermediate_size": {}, "moe_intermediate_size": {},
           "num_hidden_layers": {}, "num_attention_heads": {}, "num_experts_per_tok": {}, "hidden_act": "silu",
           "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
           "tie_word_embeddings": {}, "torch_dtype": "bfloat16")",
        between(60, 300), c.tp_size * 2, c.tp_size * 2, layers, heads,
        std::min<int64_t>(experts, between(1, 4)), chance(0.3));
    if (!moe_) {
      return model::parse_config(fmt::format(
          R"({{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 4, "num_key_value_heads": {},
              {}}})",
          kv_heads, common));
    }
    if (chance(0.5)) {
      return model::parse_config(fmt::format(
          R"({{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": 4,
              "num_key_value_heads": {}, "num_experts": {}, "norm_topk_prob": true, "decoder_sparse_step": {},
              "mlp_only_layers": [], {}}})",
          kv_heads, experts, between(1, 2), common));
    }
    return model::parse_config(fmt::format(
        R"({{"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_key_value_heads": {},
            "n_shared_experts": {}, "n_routed_experts": {}, "routed_scaling_factor": 1.5, "kv_lora_rank": 8,
            "q_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 4, "qk_nope_head_dim": 4, "n_group": 1,
            "topk_group": 1, "first_k_dense_replace": {}, "norm_topk_prob": true, "scoring_func": "sigmoid",
            "topk_method": "noaux_tc", {}}})",
        heads, between(0, 1), experts, between(0, layers), common));
  }

  void sizes(RuntimeConfig& c) {
    c.page_size = pick<int64_t>({1, 1, 4, 16});
    c.max_running_requests = between(1, 24);
    c.max_tokens_per_step = between(1, 96);
    c.context_length = between(8, 160);
    const int64_t most = c.max_running_requests * c.context_length;
    c.max_total_tokens = std::max<int64_t>(c.page_size * 4, chance(0.5) ? most : most / 3);
    c.max_top_logprobs = 2;
    c.dispatch_chunk_rows = chance(0.5) ? between(1, 16) : 1024;
    c.graph_padding = chance(0.85);
    if (!chance(0.75)) return;
    const int64_t attn_tp = c.tp_size / (c.enable_dp_attention ? c.dp_size : 1);
    std::vector<int64_t> list = plan::cpu_capture_batch_sizes(c.max_running_requests);
    if (chance(0.3)) list.erase(list.begin() + static_cast<int64_t>(list.size()) / 2, list.end());
    list.push_back(attn_tp * 2);
    c.graph_batch_sizes = plan::filter_capture_sizes(list, {.pool_size = c.max_running_requests,
                                                            .two_batch_overlap = c.enable_two_batch_overlap,
                                                            .gathered_buffer = attn_tp > 1,
                                                            .attn_tp_size = static_cast<int>(attn_tp),
                                                            .tokens_per_req = 1});
  }

  std::mt19937_64 rng_;
  uint64_t seed_;
  bool moe_ = false;
};

}  // namespace weft::runtime::simulate
