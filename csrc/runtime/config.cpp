#include "runtime/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/math.h"

namespace weft::runtime {
namespace {

// Logit rows of a pass of the LM head: enough for any decode batch that is common, while the logits of a
// large vocabulary stay a few hundred MiB.
constexpr int64_t kMaxLogitChunkRows = 256;

template <class T, size_t N>
T choose(std::string_view flag, const std::string& value,
         const std::array<std::pair<std::string_view, T>, N>& choices) {
  std::string names;
  for (const auto& [name, choice] : choices) {
    if (value == name) return choice;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  }
  WEFT_THROW("{}='{}' is unknown; use one of: {}", flag, value, names);
}

DType resolve_dtype(const std::string& value, DType of_model) {
  using Choice = std::pair<std::string_view, DType>;
  return choose("dtype", value,
                std::array<Choice, 4>{Choice{"auto", of_model}, Choice{"float32", DType::kF32},
                                      Choice{"bfloat16", DType::kBF16}, Choice{"float16", DType::kF16}});
}

plan::ParallelConfig resolve_parallel(const RuntimeConfig& c) {
  using Backend = std::pair<std::string_view, plan::A2aBackend>;
  using Mode = std::pair<std::string_view, plan::DeepEpMode>;
  plan::ParallelConfig p;
  p.tp_size = c.tp_size;
  p.dp_size = c.dp_size;
  p.enable_dp_attention = c.enable_dp_attention;
  p.ep_size = c.ep_size;
  p.a2a_backend = choose("moe_a2a_backend", c.moe_a2a_backend,
                         std::array<Backend, 2>{Backend{"none", plan::A2aBackend::kNone},
                                                Backend{"deepep", plan::A2aBackend::kDeepEp}});
  p.deepep_mode = choose(
      "deepep_mode", c.deepep_mode,
      std::array<Mode, 3>{Mode{"auto", plan::DeepEpMode::kAuto}, Mode{"normal", plan::DeepEpMode::kNormal},
                          Mode{"low_latency", plan::DeepEpMode::kLowLatency}});
  p.moe_dense_tp_size = c.moe_dense_tp_size.value_or(0);
  p.enable_dp_lm_head = c.enable_dp_lm_head;
  p.enable_two_batch_overlap = c.enable_two_batch_overlap;
  p.enable_layernorm_sp = c.enable_layernorm_sp;
  p.validate();
  return p;
}

void check_sizes(const RuntimeConfig& c, const exec::ExecConfig& e, const model::ModelConfig& model) {
  WEFT_CHECK(c.max_running_requests > 0, "max_running_requests={} must be positive", c.max_running_requests);
  WEFT_CHECK(c.max_tokens_per_step > 0, "max_tokens_per_step={} must be positive", c.max_tokens_per_step);
  WEFT_CHECK(c.page_size > 0, "page_size={} must be positive", c.page_size);
  WEFT_CHECK(c.max_total_tokens >= c.page_size, "max_total_tokens={} holds no page of page_size={}",
             c.max_total_tokens, c.page_size);
  // kv_slots are int32.
  WEFT_CHECK(c.max_total_tokens <= INT32_MAX, "max_total_tokens={} exceeds {}", c.max_total_tokens,
             INT32_MAX);
  WEFT_CHECK(e.max_context > 0 && e.max_context <= model.max_position_embeddings,
             "context_length={} must be positive and at most the model's max_position_embeddings={}",
             e.max_context, model.max_position_embeddings);
  WEFT_CHECK(c.max_top_logprobs >= 0 && c.max_top_logprobs <= model.vocab_size,
             "max_top_logprobs={} must be from 0 to the vocabulary of {}", c.max_top_logprobs,
             model.vocab_size);
  WEFT_CHECK(c.dispatch_chunk_rows > 0, "dispatch_chunk_rows={} must be positive", c.dispatch_chunk_rows);
  WEFT_CHECK(c.timeout_s > 0 && std::isfinite(c.timeout_s), "timeout_s={} must be a positive number",
             c.timeout_s);
  WEFT_CHECK(c.num_threads >= 0, "num_threads={} must be positive, or 0 for all cores", c.num_threads);
  WEFT_CHECK(c.tbo_token_distribution_threshold >= 0 && c.tbo_token_distribution_threshold <= 0.5,
             "tbo_token_distribution_threshold={} must be from 0 to 0.5", c.tbo_token_distribution_threshold);
}

// One GPU so far: what moves rows between ranks, dispatch included, runs on the host.
void check_device(const RuntimeConfig& c) {
  if (c.device == "cpu") return;
  WEFT_CHECK(c.device == "cuda", "device='{}' is unknown; use one of: cpu, cuda", c.device);
  WEFT_CHECK(
      c.tp_size == 1,
      "device='cuda' with tp_size={}: ranks on several GPUs come later; use tp_size=1, or device='cpu'",
      c.tp_size);
  WEFT_CHECK(c.moe_a2a_backend == "none",
             "device='cuda' with moe_a2a_backend='{}': expert dispatch has no CUDA kernels yet; use 'none'",
             c.moe_a2a_backend);
#if WEFT_CUDA
  const std::string reason = device::cuda_unavailable_reason();
  WEFT_CHECK(reason.empty(), "device='cuda': {}; use device='cpu'", reason);
#else
  WEFT_THROW(
      "device='cuda': this build of weft has no CUDA backend; build it with nvcc, or use device='cpu'");
#endif
}

}  // namespace

exec::ExecConfig resolve(const RuntimeConfig& c, const model::ModelConfig& model) {
  using Policy = std::pair<std::string_view, plan::TboPolicy>;
  check_device(c);
  exec::ExecConfig e;
  e.plan.parallel = resolve_parallel(c);
  e.plan.tbo_policy = choose("tbo_policy", c.tbo_policy,
                             std::array<Policy, 2>{Policy{"any", plan::TboPolicy::kAny},
                                                   Policy{"sglang", plan::TboPolicy::kSglang}});
  e.plan.tbo_gate = plan::parse_tbo_gate(c.tbo_gate);
  e.plan.tbo_cost_table = c.tbo_cost_table;
  e.backend = c.device == "cuda" ? device::Backend::kCuda : device::Backend::kCpu;
  e.dtype = resolve_dtype(c.dtype, model.dtype);
  e.max_context = c.context_length > 0 ? c.context_length : model.max_position_embeddings;
  check_sizes(c, e, model);
  e.max_tokens = std::max(c.max_tokens_per_step, c.max_running_requests);
  e.max_seqs = c.max_running_requests;
  e.page_size = c.page_size;
  e.num_pages = c.max_total_tokens / c.page_size;
  e.max_top_logprobs = c.max_top_logprobs;
  e.poison = c.poison;
  e.timeout = std::chrono::milliseconds(std::max<int64_t>(1, std::llround(c.timeout_s * 1000)));

  // Chunks no larger than any step can fill; a graph has one chunk.
  const int64_t attn_tp = e.plan.parallel.attn_tp_size();
  const int64_t largest_bucket =
      c.graph_batch_sizes.empty() ? 0
                                  : *std::max_element(c.graph_batch_sizes.begin(), c.graph_batch_sizes.end());
  const auto rows_of_rank = [&](int64_t rows) { return ceil_div(std::max<int64_t>(rows, 1), attn_tp); };
  e.plan.graph_buckets = c.graph_batch_sizes;
  e.plan.graph_padding = c.graph_padding;
  e.plan.normal_chunk_rows = std::min(c.dispatch_chunk_rows, rows_of_rank(e.max_tokens));
  e.plan.low_latency_rows =
      std::max(std::min(c.dispatch_chunk_rows, rows_of_rank(e.max_seqs)), rows_of_rank(largest_bucket));
  e.plan.logit_chunk_rows = std::max(std::min(e.max_seqs, kMaxLogitChunkRows), largest_bucket);
  e.plan.validate();
  return e;
}

}  // namespace weft::runtime
