#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "model/config.h"
#include "runtime/runtime.h"

// Tiny models with made-up weights over a whole runtime: what tests script their generations on, without
// files and without Python.
namespace weft::test {

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

/// Dummy weights, but large enough that each part of the model moves the log-probabilities by far more than
/// the tests' tolerance. f32 only.
class LoudWeights final : public model::WeightSource {
 public:
  [[nodiscard]] bool contains(std::string_view name) const override { return inner_->contains(name); }
  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const model::Slice> slices,
            const device::TensorView& dst) override {
    inner_->read(name, full_shape, slices, dst);
    if (name.find("norm") != std::string_view::npos) return;
    const int64_t rows = dst.rank == 1 ? 1 : dst.shape[0];
    const int64_t columns = dst.shape[static_cast<size_t>(dst.rank) - 1];
    for (int64_t r = 0; r < rows; ++r) {
      float* row = dst.as<float>() + r * dst.stride[0] * (dst.rank == 1 ? 0 : 1);
      for (int64_t c = 0; c < columns; ++c) row[c] *= 10.0F;
    }
  }
  [[nodiscard]] std::vector<std::string> names() const override { return inner_->names(); }

 private:
  std::unique_ptr<model::WeightSource> inner_ = model::open_dummy(7);
};

/// Small enough that chunks, passes and pages have ends to trip over. `dp_size` over 1 means DP attention.
inline runtime::RuntimeConfig tiny_config(int tp_size = 1, int dp_size = 1) {
  runtime::RuntimeConfig config;
  config.tp_size = tp_size;
  config.dp_size = dp_size;
  config.enable_dp_attention = dp_size > 1;
  config.max_tokens_per_step = 64;
  config.max_running_requests = 8;
  config.context_length = 128;
  config.max_total_tokens = 8 * 128;
  config.page_size = 4;
  config.max_top_logprobs = 2;
  config.timeout_s = 20;
  config.num_threads = 1;
  return config;
}

/// The same with experts reached by dispatch, and with two-batch overlap or without.
inline runtime::RuntimeConfig dispatched_config(int tp_size, int dp_size, bool overlap = true) {
  runtime::RuntimeConfig config = tiny_config(tp_size, dp_size);
  config.ep_size = tp_size;
  config.moe_a2a_backend = "deepep";
  config.enable_two_batch_overlap = overlap;
  return config;
}

/// What a Runtime is made of.
struct TinyModel {
  explicit TinyModel(const char* config_json, runtime::RuntimeConfig how = dispatched_config(4, 2))
      : config(std::move(how)) {
    hooks.model = model::parse_config(config_json);
    hooks.weights = std::make_shared<LoudWeights>();
  }
  runtime::RuntimeConfig config;
  runtime::RuntimeHooks hooks;
};

/// Greedy requests first, first + 1, ...: prompts of lengths 1, 2, primes and longer ones from fixed seeds,
/// spread over the DP ranks in turn, with the log-probabilities of all tokens.
inline std::vector<runtime::Admission> made_up_requests(const TinyModel& tiny, int count = 6, int first = 0,
                                                        int64_t new_tokens = 6) {
  constexpr int64_t kLengths[] = {1, 2, 37, 13, 5, 29, 3, 17};
  std::vector<runtime::Admission> requests;
  for (int i = first; i < first + count; ++i) {
    std::mt19937 rng(static_cast<unsigned>(i) + 11U);
    runtime::Admission a;
    a.rid = i;
    a.dp_rank = (i - first) % tiny.config.dp_size;
    a.input_ids.resize(static_cast<size_t>(kLengths[i % 8]));
    for (auto& id : a.input_ids) {
      id = static_cast<int32_t>(rng() % static_cast<unsigned>(tiny.hooks.model->vocab_size));
    }
    a.max_new_tokens = new_tokens;
    a.temperature = 0.0F;
    a.return_logprob = true;
    a.logprob_start = 0;
    requests.push_back(std::move(a));
  }
  return requests;
}

}  // namespace weft::test
