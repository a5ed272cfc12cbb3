#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "exec/rank_worker.h"
#include "model/config.h"

namespace weft::runtime {

/// Everything the runtime needs, under the names of the flags, as ServerArgs resolved them. Sizes are per DP
/// rank unless said.
struct RuntimeConfig {
  std::string model_path;
  std::string load_format = "auto";  // auto, safetensors, dummy
  std::string dtype = "auto";        // auto (the checkpoint's), float32, bfloat16, float16
  std::string device = "cpu";
  int tp_size = 1;
  int dp_size = 1;
  bool enable_dp_attention = false;
  int ep_size = 1;
  std::string moe_a2a_backend = "none";  // none, deepep
  std::string deepep_mode = "auto";      // auto, normal, low_latency
  std::optional<int> moe_dense_tp_size;
  bool enable_dp_lm_head = false;
  bool enable_two_batch_overlap = false;
  bool enable_layernorm_sp = false;
  double tbo_token_distribution_threshold = 0.48;
  std::string tbo_policy = "any";          // any, sglang
  std::string tbo_gate = "auto";           // auto, always
  plan::TboCostTable tbo_cost_table;       // of the gate; empty: none
  std::vector<int64_t> graph_batch_sizes;  // empty: no graphs
  bool graph_padding = true;
  int64_t max_tokens_per_step = 0;
  int64_t max_running_requests = 0;
  int64_t context_length = 0;  // 0: the model's
  int64_t page_size = 1;
  int64_t max_total_tokens = 0;  // of the KV cache
  int64_t max_top_logprobs = 20;
  int64_t dispatch_chunk_rows = 1024;  // rows of one rank that are dispatched at once
  double timeout_s = 60.0;
  int num_threads = 0;  // cores over all ranks; 0: those this process may use
  bool poison = false;
  uint64_t seed = 0;  // of dummy weights
};

/// The sizes of every buffer. Throws Error, naming the flag, its value and the fix, for whatever cannot work.
[[nodiscard]] exec::ExecConfig resolve(const RuntimeConfig& config, const model::ModelConfig& model);

}  // namespace weft::runtime
