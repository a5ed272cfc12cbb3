#include "plan/step_plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "plan/graph_buckets.h"
#include "plan/splitter.h"

namespace weft::plan {
namespace {

constexpr std::string_view kGateReason = "tbo gate: by the cost table two micro-batches are not faster";

void check_state(const RankState& state, size_t dp_rank, bool check_split) {
  const std::string_view mode = forward_mode_name(state.mode);
  WEFT_CHECK(mode != "?", "DP rank {}: {} is no forward mode", dp_rank, static_cast<int>(state.mode));
  if (has_no_rows(state.mode)) {
    WEFT_CHECK(state.num_tokens == 0 && state.num_seqs == 0 && state.num_logit_rows == 0,
               "DP rank {} is {} but has num_tokens={}, num_seqs={}, num_logit_rows={}; give 0", dp_rank,
               mode, state.num_tokens, state.num_seqs, state.num_logit_rows);
    return;
  }
  WEFT_CHECK(state.num_tokens > 0 && state.num_tokens <= INT32_MAX,
             "DP rank {}: {} with num_tokens={}; it must be 1..{}, a rank without rows is IDLE", dp_rank,
             mode, state.num_tokens, INT32_MAX);
  WEFT_CHECK(state.num_seqs >= 0 && state.num_seqs <= state.num_tokens,
             "DP rank {}: num_seqs={} for num_tokens={}; every sequence must have a token", dp_rank,
             state.num_seqs, state.num_tokens);
  if (has_fixed_width(state.mode)) {
    WEFT_CHECK(state.tokens_per_req >= 1 && (state.mode != ForwardMode::kDecode || state.tokens_per_req == 1),
               "DP rank {}: {} with tokens_per_req={}; give 1 for DECODE, the draft tokens for TARGET_VERIFY",
               dp_rank, mode, state.tokens_per_req);
    WEFT_CHECK(state.num_tokens % state.tokens_per_req == 0 &&
                   state.num_seqs == state.num_tokens / state.tokens_per_req,
               "DP rank {}: {} with num_tokens={} and num_seqs={}; every request must have {} rows", dp_rank,
               mode, state.num_tokens, state.num_seqs, state.tokens_per_req);
  }
  WEFT_CHECK(state.num_logit_rows >= 0 && state.num_logit_rows <= state.num_tokens,
             "DP rank {}: num_logit_rows={} for num_tokens={}; give 0 to all of them", dp_rank,
             state.num_logit_rows, state.num_tokens);
  if (!check_split || state.can_split == 0) return;
  const auto [first, second] = std::pair(state.split_tokens[0], state.split_tokens[1]);
  WEFT_CHECK(first >= 0 && first <= state.num_tokens && second == state.num_tokens - first,
             "DP rank {}: split_tokens={},{} do not make num_tokens={}; give the children's, or can_split 0",
             dp_rank, first, second, state.num_tokens);
}

void check_states(const std::vector<RankState>& states, const PlanConfig& config) {
  const auto attn_dp_size = static_cast<size_t>(config.parallel.attn_dp_size());
  WEFT_CHECK(states.size() == attn_dp_size, "make_step_plan: {} rank states for {} DP ranks; give one each",
             states.size(), attn_dp_size);
  for (size_t d = 0; d < states.size(); ++d) {
    const RankState& state = states[d];
    WEFT_CHECK(state.step_id == states[0].step_id,
               "DP rank {} is at step {}, DP rank 0 at step {}; all states must be of one step", d,
               state.step_id, states[0].step_id);
    WEFT_CHECK(state.config_hash == states[0].config_hash,
               "DP rank {} has configuration {:016x}, DP rank 0 has {:016x}; start every rank with the same "
               "arguments",
               d, state.config_hash, states[0].config_hash);
    WEFT_CHECK(
        state.trace_hash == states[0].trace_hash,
        "step {}: DP rank {} ran collectives {:016x} before, DP rank 0 ran {:016x}; they must have run the "
        "same",
        state.step_id, d, state.trace_hash, states[0].trace_hash);
    check_state(state, d, config.parallel.enable_two_batch_overlap);
  }
}

// Makes one plan; the members are the inputs, so that the rules read without a row of arguments.
class Planner {
 public:
  Planner(const std::vector<RankState>& states, const PlanConfig& config)
      : states_(states),
        config_(config),
        parallel_(config.parallel),
        gathered_(config.parallel.require_mlp_tp_gather()) {}

  StepPlan make() {
    decide_step();
    decide_graphs();
    make_micro_batches();
    if (any_replay() && any_chunked()) {
      // A graph has one expert chunk, and chunks are the step's: an eager rank needs more, so nobody replays.
      leave_graphs(GraphMiss::kTooLarge);
      make_micro_batches();
    }
    decide_logits();
    return std::move(plan_);
  }

 private:
  void decide_step() {
    plan_.step_id = states_[0].step_id;
    for (const RankState& state : states_) {
      plan_.modes.push_back(state.mode);
      plan_.run = plan_.run || state.num_tokens > 0;
      plan_.is_extend_in_batch = plan_.is_extend_in_batch || is_prefill(state.mode);
    }
    plan_.layernorm_sp = plan_.is_extend_in_batch && parallel_.enable_layernorm_sp;
    plan_.schedule = plan_.is_extend_in_batch ? ForwardMode::kExtend : ForwardMode::kDecode;
    plan_.dispatch = dispatch_mode(parallel_, plan_.is_extend_in_batch);
  }

  [[nodiscard]] GraphMiss common_miss() const {
    if (!plan_.run) return GraphMiss::kEmpty;
    if (config_.graph_buckets.empty()) return GraphMiss::kDisabled;
    if (plan_.is_extend_in_batch) return GraphMiss::kExtend;
    if (plan_.dispatch == DispatchMode::kNormal) return GraphMiss::kNormalDispatch;
    for (const RankState& state : states_) {
      if (state.num_tokens > 0 && state.can_graph == 0) return GraphMiss::kRankCannot;
    }
    for (const RankState& state : states_) {
      if (state.num_tokens > 0 && state.tokens_per_req != config_.tokens_per_req)
        return GraphMiss::kTokensPerReq;
    }
    return GraphMiss::kNone;
  }

  [[nodiscard]] int64_t find_bucket(int64_t num_tokens) const {
    const std::optional<int64_t> bucket = bucket_of(config_.graph_buckets, num_tokens);
    if (!bucket || (!config_.graph_padding && *bucket != num_tokens)) return 0;
    return *bucket;
  }

  void decide_graphs() {
    leave_graphs(common_miss());
    if (plan_.graph_miss[0] != GraphMiss::kNone) return;
    if (gathered_) {
      int64_t max_tokens = 0;
      for (const RankState& state : states_) max_tokens = std::max(max_tokens, state.num_tokens);
      std::fill(plan_.graph_bucket.begin(), plan_.graph_bucket.end(), find_bucket(max_tokens));
    } else {
      for (size_t d = 0; d < states_.size(); ++d) {
        if (states_[d].num_tokens > 0) plan_.graph_bucket[d] = find_bucket(states_[d].num_tokens);
      }
      // A rank without rows follows: alone it would only keep the others from running eager.
      const int64_t idle_bucket = any_replay() ? find_bucket(0) : 0;
      for (size_t d = 0; d < states_.size(); ++d) {
        if (states_[d].num_tokens == 0) plan_.graph_bucket[d] = idle_bucket;
      }
    }
    for (size_t d = 0; d < states_.size(); ++d) {
      if (plan_.graph_bucket[d] == 0) plan_.graph_miss[d] = GraphMiss::kTooLarge;
    }
  }

  void leave_graphs(GraphMiss miss) {
    plan_.graph_bucket.assign(states_.size(), 0);
    plan_.graph_miss.assign(states_.size(), miss);
  }

  [[nodiscard]] bool any_replay() const {
    return std::any_of(plan_.graph_bucket.begin(), plan_.graph_bucket.end(), [](int64_t b) { return b > 0; });
  }
  [[nodiscard]] bool any_chunked() const {
    return std::any_of(plan_.micro_batches.begin(), plan_.micro_batches.end(),
                       [](const MicroBatchPlan& batch) { return batch.expert_chunks > 1; });
  }

  // Why an eager step is not overlapped; empty if it is.
  [[nodiscard]] std::string_view eager_no_tbo_reason() const {
    if (!plan_.run) return "no rank has rows";
    if (config_.tbo_policy == TboPolicy::kSglang && plan_.is_extend_in_batch &&
        plan_.dispatch == DispatchMode::kLowLatency)
      return "policy sglang: a prefill under low-latency dispatch";
    std::optional<ForwardMode> common;
    bool in_both = false;
    for (const RankState& state : states_) {
      if (state.num_tokens == 0) continue;
      in_both = in_both || (state.can_split != 0 && state.split_tokens[0] > 0 && state.split_tokens[1] > 0);
      if (config_.tbo_policy == TboPolicy::kAny) continue;
      if (state.can_split == 0) return "policy sglang: a rank cannot split its batch";
      if (common && *common != state.mode) return "policy sglang: ranks are in unlike modes";
      common = state.mode;
    }
    return in_both ? "" : "no rank has rows in both micro-batches";
  }

  void make_micro_batches() {
    if (parallel_.enable_two_batch_overlap) {
      plan_.no_tbo_reason = any_replay() ? std::string_view() : eager_no_tbo_reason();
      if (plan_.no_tbo_reason.empty() && !overlap_pays()) plan_.no_tbo_reason = kGateReason;
      plan_.tbo = plan_.no_tbo_reason.empty();
    }
    plan_.micro_batches.assign(plan_.tbo ? 2 : 1, {});
    for (size_t d = 0; d < states_.size(); ++d) {
      const auto [first, second] = plan_.tbo ? split_of(d) : std::pair(states_[d].num_tokens, int64_t{0});
      plan_.micro_batches[0].num_tokens.push_back(first);
      if (plan_.tbo) plan_.micro_batches[1].num_tokens.push_back(second);
    }
    for (MicroBatchPlan& batch : plan_.micro_batches) {
      lay_out(batch);
      batch.expert_chunks = expert_chunks(batch);
    }
  }

  // Real tokens of a DP rank in each micro-batch of an overlapped step.
  [[nodiscard]] std::pair<int64_t, int64_t> split_of(size_t dp_rank) const {
    const RankState& state = states_[dp_rank];
    if (state.num_tokens == 0) return {0, 0};
    if (plan_.graph_bucket[dp_rank] > 0) return replay_split(plan_.graph_bucket[dp_rank], state.num_tokens);
    if (state.can_split == 0) return {state.num_tokens, 0};
    return {state.split_tokens[0], state.split_tokens[1]};
  }

  // The gate's answer: a step ends when its largest rank does.
  [[nodiscard]] bool overlap_pays() const {
    if (config_.tbo_gate == TboGate::kAlways || config_.tbo_cost_table.empty()) return true;
    int64_t whole = 0, first = 0, second = 0;
    for (size_t d = 0; d < states_.size(); ++d) {
      const int64_t bucket = plan_.graph_bucket[d];
      const auto [a, b] = bucket > 0 ? std::pair(bucket / 2, bucket / 2) : split_of(d);
      whole = std::max(whole, bucket > 0 ? bucket : states_[d].num_tokens);
      first = std::max(first, a);
      second = std::max(second, b);
    }
    return config_.tbo_cost_table.pays(round_up(whole, alignment()), round_up(first, alignment()),
                                       round_up(second, alignment()));
  }

  // What the rows of this step are padded to a multiple of.
  [[nodiscard]] int64_t alignment() const {
    return plan_.layernorm_sp ? parallel_.attn_tp_size() : config_.row_alignment();
  }

  // Rows and their places, from the real tokens.
  void lay_out(MicroBatchPlan& batch) const {
    const auto num_batches = static_cast<int64_t>(plan_.micro_batches.size());
    const bool replay = any_replay();
    if (gathered_ && !replay) {
      DpPadding padding = dp_padding(batch.num_tokens, parallel_.attn_tp_size(), parallel_.attn_dp_size(),
                                     plan_.is_extend_in_batch);
      batch.padding = padding.mode;
      batch.rows = std::move(padding.padded);
      batch.start = std::move(padding.start);
      batch.gathered_rows = padding.buffer_len;
      return;
    }
    for (size_t d = 0; d < states_.size(); ++d) {
      const int64_t bucket = plan_.graph_bucket[d];
      const int64_t rows = bucket > 0 ? bucket / num_batches : round_up(batch.num_tokens[d], alignment());
      batch.rows.push_back(rows);
      batch.start.push_back(gathered_ ? batch.gathered_rows : 0);
      if (gathered_) batch.gathered_rows += rows;
    }
    if (gathered_) batch.padding = PaddingMode::kMaxLen;  // one bucket for all
  }

  [[nodiscard]] int64_t expert_chunks(const MicroBatchPlan& batch) const {
    if (plan_.dispatch == DispatchMode::kNone) return 1;
    const int64_t chunk_rows =
        plan_.dispatch == DispatchMode::kNormal ? config_.normal_chunk_rows : config_.low_latency_rows;
    const int64_t max_rows = *std::max_element(batch.rows.begin(), batch.rows.end());
    return std::max<int64_t>(1, ceil_div(max_rows / parallel_.attn_tp_size(), chunk_rows));
  }

  void decide_logits() {
    int64_t max_rows = 0;
    for (size_t d = 0; d < states_.size(); ++d) {
      const int64_t bucket = plan_.graph_bucket[d];
      plan_.logit_rows.push_back(bucket > 0 ? bucket : states_[d].num_logit_rows);
      max_rows = std::max(max_rows, plan_.logit_rows[d]);
    }
    plan_.logit_chunks = std::max<int64_t>(1, ceil_div(max_rows, config_.logit_chunk_rows));
  }

  const std::vector<RankState>& states_;
  const PlanConfig& config_;
  const ParallelConfig& parallel_;
  const bool gathered_;
  StepPlan plan_;
};

}  // namespace

TboPolicy parse_tbo_policy(std::string_view name) {
  if (name == "any") return TboPolicy::kAny;
  WEFT_CHECK(name == "sglang", "tbo_policy='{}' is not known; choose any or sglang", name);
  return TboPolicy::kSglang;
}

std::string_view tbo_policy_name(TboPolicy policy) { return policy == TboPolicy::kAny ? "any" : "sglang"; }

std::string_view graph_miss_name(GraphMiss miss) {
  switch (miss) {
    case GraphMiss::kNone:
      return "none";
    case GraphMiss::kDisabled:
      return "disabled";
    case GraphMiss::kExtend:
      return "extend";
    case GraphMiss::kTooLarge:
      return "too_large";
    case GraphMiss::kRankCannot:
      return "rank_cannot";
    case GraphMiss::kNormalDispatch:
      return "normal_dispatch";
    case GraphMiss::kEmpty:
      return "empty";
    case GraphMiss::kTokensPerReq:
      return "tokens_per_req";
  }
  return "?";
}

StepPlan make_step_plan(const std::vector<RankState>& states, const PlanConfig& config) {
  config.validate();
  check_states(states, config);
  return Planner(states, config).make();
}

}  // namespace weft::plan
