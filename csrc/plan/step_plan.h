#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plan/forward_mode.h"
#include "plan/padding.h"
#include "plan/parallel.h"
#include "plan/tbo_gate.h"

namespace weft::plan {

/// What one DP rank says of its batch: all that the agreement may depend on. Fixed size, plain bytes.
///
/// IDLE and PREBUILT have no rows; every other mode has at least one. Of a rank without rows only the first
/// four fields count. DECODE and TARGET_VERIFY: num_tokens == num_seqs * tokens_per_req.
struct RankState {
  uint64_t step_id = 0;
  uint64_t config_hash = 0;  // PlanConfig::hash()
  uint64_t trace_hash = 0;   // shared_trace_hash() of the previous step
  ForwardMode mode = ForwardMode::kIdle;
  uint8_t can_graph = 1;       // this rank's batch may replay a graph (no feature of it needs eager)
  uint8_t can_split = 1;       // the splitter found a split
  int64_t num_tokens = 0;      // rows of the batch, all draft tokens included
  int64_t num_seqs = 0;        // <= num_tokens
  int64_t tokens_per_req = 1;  // DECODE: 1; TARGET_VERIFY: draft tokens of a request; else not looked at
  int64_t num_logit_rows = 0;  // <= num_tokens
  int64_t split_tokens[2] = {0, 0};  // tokens of each micro-batch; they sum to num_tokens if can_split
};

enum class TboPolicy : uint8_t {
  kAny,     // one schedule for the step, EXTEND's if any rank extends; modes may differ
  kSglang,  // as SGLang votes: modes other than IDLE must agree, every rank must be able to split, ...
};

/// Values of the flag --tbo-policy: "any", "sglang". parse throws Error naming the choices.
TboPolicy parse_tbo_policy(std::string_view name);
std::string_view tbo_policy_name(TboPolicy policy);

/// What every rank knows from the start, and agrees on.
struct PlanConfig {
  ParallelConfig parallel;
  TboPolicy tbo_policy = TboPolicy::kAny;
  TboGate tbo_gate = TboGate::kAuto;
  TboCostTable tbo_cost_table;         // of the gate; may be empty
  std::vector<int64_t> graph_buckets;  // rows of one DP rank, ascending; empty: no graphs
  int64_t tokens_per_req = 1;          // rows of a request in a graph; speculative decoding: draft tokens
  bool graph_padding = true;           // false: only exact sizes replay
  int64_t normal_chunk_rows = 1;       // rows of one rank in one expert chunk of normal dispatch
  int64_t low_latency_rows = 1;        // the same for low-latency dispatch
  int64_t logit_chunk_rows = 1;        // logit rows of one DP rank in one pass of the LM head

  /// Rows of a DP rank are padded to a multiple of this: attn_tp_size where a boundary may shard rows over
  /// the attention-TP group (require_gathered_buffer()), else 1: plain tensor parallel pads nothing.
  [[nodiscard]] int64_t row_alignment() const {
    return parallel.require_gathered_buffer() ? parallel.attn_tp_size() : 1;
  }
  [[nodiscard]] uint64_t hash() const;
  /// Throws Error unless parallel and the cost table are valid, chunk sizes are positive, buckets ascend and
  /// are multiples of row_alignment() and of tokens_per_req (of twice both with two-batch overlap: a graph
  /// may then hold two micro-batches of half the rows), and a graph's rows fit into one low-latency chunk.
  void validate() const;
};

/// Why a DP rank's step does not replay a graph. The first that holds, in this order: kEmpty, kDisabled,
/// kExtend, kNormalDispatch, kRankCannot, kTokensPerReq, kTooLarge.
enum class GraphMiss : uint8_t {
  kNone,            // it replays
  kDisabled,        // no buckets
  kExtend,          // some rank is EXTEND or MIXED
  kTooLarge,        // no bucket holds the batch (or, without padding, equals it)
  kRankCannot,      // some rank's batch needs eager
  kNormalDispatch,  // deepep mode normal is not capturable
  kEmpty,           // nothing to run
  kTokensPerReq,    // requests of some rank have another number of rows than those of the graphs
};
std::string_view graph_miss_name(GraphMiss miss);  // "none", "disabled", "extend", "too_large", ...

/// One micro-batch, for all DP ranks.
struct MicroBatchPlan {
  std::vector<int64_t> num_tokens;  // real rows of each DP rank
  std::vector<int64_t> rows;  // with padding: multiples of row_alignment(); of attn_tp_size if layernorm_sp
  PaddingMode padding = PaddingMode::kNone;  // kNone when nothing is gathered
  std::vector<int64_t> start;  // first row of each DP rank in the gathered buffer; zeros when none is
  int64_t gathered_rows = 0;   // rows of the gathered buffer; 0 when nothing is gathered
  int64_t expert_chunks = 1;   // times that dispatch, experts, combine run
};

/// All that ranks must agree on about one step. The same on every rank, bit for bit.
struct StepPlan {
  uint64_t step_id = 0;
  bool run = false;                             // false: no rank has rows, nothing happens
  bool is_extend_in_batch = false;              // some rank is_prefill()
  std::vector<ForwardMode> modes;               // of each DP rank
  ForwardMode schedule = ForwardMode::kDecode;  // kExtend or kDecode: whose stage list all ranks run
  DispatchMode dispatch = DispatchMode::kNone;
  bool layernorm_sp = false;  // rows are scattered over attention TP between parts
  bool tbo = false;
  std::string_view no_tbo_reason;             // empty if tbo, or if overlap is off; points to static text
  std::vector<MicroBatchPlan> micro_batches;  // one, or two with tbo
  std::vector<int64_t> graph_bucket;          // of each DP rank: rows to replay, 0 for eager
  std::vector<GraphMiss> graph_miss;
  std::vector<int64_t> logit_rows;  // of each DP rank, as run (a replayed rank: its bucket)
  int64_t logit_chunks = 1;

  /// Over everything above.
  [[nodiscard]] uint64_t hash() const;
};

/// The agreement: pure, host only, no clock, no globals. `states` holds one entry a DP rank.
/// Throws Error if a state contradicts itself, or if the states disagree on step, configuration or last
/// trace, naming the DP rank; or if config is not valid.
///
/// run: some rank has rows. A rank without rows takes part with zero rows.
/// Schedule: kExtend if any rank is_prefill(), else kDecode. Dispatch: dispatch_mode() (semantics 6.1), where
/// such a rank is what moves auto to normal.
///
/// layernorm_sp: iff enable_layernorm_sp and some rank is_prefill(); then it holds for every rank,
/// those that decode included. Steps of DECODE and TARGET_VERIFY alone have few rows and may replay graphs:
/// they keep theirs full.
///
/// Graphs are possible iff there are buckets, no rank is_prefill(), dispatch is not kNormal, and all ranks
/// with rows can_graph and have the configuration's tokens_per_req.
/// - Rows are gathered (require_mlp_tp_gather()): one bucket for every rank, the smallest that holds the
///   largest batch; if there is none, nobody replays.
/// - Nothing is gathered: each rank replays its own bucket. A miss is local: that rank runs eager while
///   others replay, which is legal as low-latency dispatch is independent of shapes. If the eager rows exceed
///   one low-latency chunk, nobody replays (a graph has one chunk). A rank without rows replays the smallest
///   bucket if some rank with rows replays, else it misses as kTooLarge.
/// Without graph_padding only a batch of exactly a bucket's size replays.
/// A replayed rank has rows and logit_rows = its bucket.
///
/// Overlap, if enabled:
/// - Some rank replays: every rank can, each micro-batch of a replayed rank has half its bucket's rows, and
///   real tokens fall to them by replay_split(); a rank that is eager in such a step splits as below.
/// - Nobody replays: policy kAny splits iff some rank has rows in both micro-batches; a rank that cannot
///   split puts all its rows in the first. Policy kSglang wants in addition that modes other than IDLE and
///   PREBUILT are equal, that every rank with rows can split, and that no prefill is dispatched by
///   kLowLatency (semantics 1.7).
/// - What can be overlapped is, unless the gate is kAuto, there is a cost table, and by it two micro-batches
///   do not pay(): each part counts as long as its largest rank's rows.
///
/// Padding: when rows are gathered, by dp_padding() for each micro-batch on its own (graphs: MAX_LEN); else
/// each rank pads to row_alignment() alone, to attn_tp_size under layernorm_sp. expert_chunks: over all
/// ranks, the most that rows / attn_tp_size needs (1 without dispatch). logit_chunks: the same for logit_rows
/// and logit_chunk_rows.
StepPlan make_step_plan(const std::vector<RankState>& states, const PlanConfig& config);

}  // namespace weft::plan
