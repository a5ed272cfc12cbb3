#pragma once

#include <cstdint>
#include <string_view>

namespace weft::plan {

enum class A2aBackend : uint8_t { kNone, kDeepEp };
enum class DeepEpMode : uint8_t { kAuto, kNormal, kLowLatency };

/// Values of the flags --moe-a2a-backend ("none", "deepep") and --deepep-mode ("auto", "normal",
/// "low_latency"). Throw Error naming the choices.
A2aBackend parse_a2a_backend(std::string_view name);
DeepEpMode parse_deepep_mode(std::string_view name);
std::string_view a2a_backend_name(A2aBackend backend);
std::string_view deepep_mode_name(DeepEpMode mode);

/// How experts are reached in one step: rows gathered to all ranks, or rows sent to the experts' ranks.
enum class DispatchMode : uint8_t { kNone, kNormal, kLowLatency };
std::string_view dispatch_mode_name(DispatchMode mode);   // "none", "normal", "low_latency"
DispatchMode parse_dispatch_mode(std::string_view name);  // throws Error naming the choices

/// The parallel configuration of one model replica, as resolved from the flags of the same names.
struct ParallelConfig {
  int tp_size = 1;  // ranks of the replica
  int dp_size = 1;  // attention groups; > 1 only with DP attention
  bool enable_dp_attention = false;
  int ep_size = 1;  // expert groups; == tp_size under a dispatch backend
  A2aBackend a2a_backend = A2aBackend::kNone;
  DeepEpMode deepep_mode = DeepEpMode::kAuto;
  int moe_dense_tp_size = 0;  // 0: None; else 1 or tp_size
  bool enable_dp_lm_head = false;
  bool enable_two_batch_overlap = false;
  bool enable_layernorm_sp = false;

  [[nodiscard]] int attn_dp_size() const { return enable_dp_attention ? dp_size : 1; }
  [[nodiscard]] int attn_tp_size() const { return tp_size / attn_dp_size(); }
  [[nodiscard]] int attn_tp_rank(int rank) const { return rank % attn_tp_size(); }
  [[nodiscard]] int attn_dp_rank(int rank) const { return rank / attn_tp_size(); }
  [[nodiscard]] int moe_tp_size() const { return tp_size / ep_size; }
  [[nodiscard]] int ep_rank(int rank) const { return rank / moe_tp_size(); }
  [[nodiscard]] int moe_tp_rank(int rank) const { return rank % moe_tp_size(); }
  /// Dense FFNs are computed whole by each rank on its own rows.
  [[nodiscard]] bool dense_is_scattered() const { return moe_dense_tp_size == 1; }

  /// The predicates of SGLang's utils/common.py (semantics 4.5). DP attention over one group gathers nothing.
  [[nodiscard]] bool require_mlp_tp_gather() const;
  [[nodiscard]] bool require_attn_tp_gather() const;
  [[nodiscard]] bool require_gathered_buffer() const {
    return require_mlp_tp_gather() || require_attn_tp_gather();
  }
  [[nodiscard]] bool require_mlp_sync() const { return enable_dp_attention || require_gathered_buffer(); }

  /// Throws Error naming the flags, the values and the fix: sizes not divisible, dp without DP attention,
  /// ep_size against tp_size, moe_dense_tp_size outside {None, 1, tp_size}, DP LM head without DP attention,
  /// sequence-parallel layernorm over attention groups of one rank.
  void validate() const;
};

/// How a step reaches its experts (semantics 6.1): kNone without a dispatch backend, else deepep_mode, where
/// auto is normal iff any DP rank extends.
DispatchMode dispatch_mode(const ParallelConfig& parallel, bool is_extend_in_batch);

}  // namespace weft::plan
