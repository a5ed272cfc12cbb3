#include "plan/parallel.h"

#include "base/error.h"

namespace weft::plan {

A2aBackend parse_a2a_backend(std::string_view name) {
  for (const A2aBackend backend : {A2aBackend::kNone, A2aBackend::kDeepEp}) {
    if (a2a_backend_name(backend) == name) return backend;
  }
  WEFT_THROW("moe_a2a_backend='{}' is not supported; choose none or deepep", name);
}

DeepEpMode parse_deepep_mode(std::string_view name) {
  for (const DeepEpMode mode : {DeepEpMode::kAuto, DeepEpMode::kNormal, DeepEpMode::kLowLatency}) {
    if (deepep_mode_name(mode) == name) return mode;
  }
  WEFT_THROW("deepep_mode='{}' is not known; choose auto, normal or low_latency", name);
}

std::string_view a2a_backend_name(A2aBackend backend) {
  return backend == A2aBackend::kNone ? "none" : "deepep";
}

std::string_view deepep_mode_name(DeepEpMode mode) {
  switch (mode) {
    case DeepEpMode::kAuto:
      return "auto";
    case DeepEpMode::kNormal:
      return "normal";
    case DeepEpMode::kLowLatency:
      return "low_latency";
  }
  return "?";
}

std::string_view dispatch_mode_name(DispatchMode mode) {
  switch (mode) {
    case DispatchMode::kNone:
      return "none";
    case DispatchMode::kNormal:
      return "normal";
    case DispatchMode::kLowLatency:
      return "low_latency";
  }
  return "?";
}

DispatchMode parse_dispatch_mode(std::string_view name) {
  for (const DispatchMode mode : {DispatchMode::kNone, DispatchMode::kNormal, DispatchMode::kLowLatency}) {
    if (dispatch_mode_name(mode) == name) return mode;
  }
  WEFT_THROW("dispatch mode '{}' is not known; choose none, normal or low_latency", name);
}

DispatchMode dispatch_mode(const ParallelConfig& parallel, bool is_extend_in_batch) {
  if (parallel.a2a_backend == A2aBackend::kNone) return DispatchMode::kNone;
  switch (parallel.deepep_mode) {
    case DeepEpMode::kNormal:
      return DispatchMode::kNormal;
    case DeepEpMode::kLowLatency:
      return DispatchMode::kLowLatency;
    case DeepEpMode::kAuto:
      break;
  }
  return is_extend_in_batch ? DispatchMode::kNormal : DispatchMode::kLowLatency;
}

bool ParallelConfig::require_mlp_tp_gather() const {
  if (attn_dp_size() == 1) return false;
  return moe_dense_tp_size == 0 || !enable_dp_lm_head || a2a_backend == A2aBackend::kNone ||
         moe_dense_tp_size > tp_size / dp_size;
}

bool ParallelConfig::require_attn_tp_gather() const {
  if (a2a_backend == A2aBackend::kNone && moe_dense_tp_size == 0) return false;
  return !enable_dp_attention || dp_size < tp_size;
}

void ParallelConfig::validate() const {
  WEFT_CHECK(tp_size >= 1, "tp_size={} must be at least 1", tp_size);
  WEFT_CHECK(dp_size >= 1, "dp_size={} must be at least 1", dp_size);
  WEFT_CHECK(ep_size >= 1, "ep_size={} must be at least 1", ep_size);
  WEFT_CHECK(
      dp_size == 1 || enable_dp_attention,
      "dp_size={} without DP attention would need {} replicas; add --enable-dp-attention or set --dp 1",
      dp_size, dp_size);
  WEFT_CHECK(
      tp_size % dp_size == 0,
      "tp_size={} is not a multiple of dp_size={}; every attention group needs the same number of ranks",
      tp_size, dp_size);
  WEFT_CHECK(tp_size % ep_size == 0,
             "tp_size={} is not a multiple of ep_size={}; set --ep to a divisor of --tp", tp_size, ep_size);
  WEFT_CHECK(a2a_backend == A2aBackend::kNone || ep_size == tp_size,
             "moe_a2a_backend=deepep needs ep_size == tp_size, but ep_size={} and tp_size={}; set --ep {}",
             ep_size, tp_size, tp_size);
  WEFT_CHECK(moe_dense_tp_size == 0 || moe_dense_tp_size == 1 || moe_dense_tp_size == tp_size,
             "moe_dense_tp_size={} is not supported with tp_size={}; leave it out, or set it to 1 or {}",
             moe_dense_tp_size, tp_size, tp_size);
  WEFT_CHECK(!enable_dp_lm_head || enable_dp_attention,
             "--enable-dp-lm-head needs --enable-dp-attention: without it every rank holds all rows already");
  WEFT_CHECK(
      !enable_layernorm_sp || attn_tp_size() > 1,
      "--enable-layernorm-sp with tp_size={} and {} attention groups: each group has one rank, so there "
      "is nobody to share its rows with; raise --tp-size, lower --dp-size, or remove it",
      tp_size, attn_dp_size());
}

}  // namespace weft::plan
