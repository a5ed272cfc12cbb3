#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plan/forward_mode.h"
#include "plan/padding.h"
#include "plan/parallel.h"

namespace weft::plan {

/// What one DP rank says of its batch: all that the agreement may depend on. Fixed size, plain bytes.
struct RankState {
  uint64_t step_id = 0;
  uint64_t config_hash = 0;
  uint64_t trace_hash = 0;  // of the collectives of the previous step
  ForwardMode mode = ForwardMode::kIdle;
  uint8_t can_graph = 1;     // this rank's batch may replay a graph (no feature of it needs eager)
  uint8_t can_split = 1;     // the splitter found a split (idle: 1)
  int64_t num_tokens = 0;    // rows of the batch; requests in decode
  int64_t num_seqs = 0;
  int64_t num_logit_rows = 0;
  int64_t split_tokens[2] = {0, 0};  // tokens of each micro-batch, if split
};

enum class TboPolicy : uint8_t {
  kAny,     // one schedule for the step, EXTEND's if any rank extends; modes may differ
  kSglang,  // modes other than IDLE must agree, else no overlap
};

/// What every rank knows from the start, and agrees on.
struct PlanConfig {
  ParallelConfig parallel;
  TboPolicy tbo_policy = TboPolicy::kAny;
  std::vector<int64_t> graph_buckets;  // rows of one DP rank, ascending; empty: no graphs
  bool graph_padding = true;           // false: only exact sizes replay
  int64_t normal_chunk_rows = 1;       // rows of one rank in one expert chunk of normal dispatch
  int64_t low_latency_rows = 1;        // the same for low-latency dispatch
  int64_t logit_chunk_rows = 1;        // logit rows of one DP rank in one pass of the LM head

  [[nodiscard]] uint64_t hash() const;
};

/// Why a DP rank's step does not replay a graph.
enum class GraphMiss : uint8_t {
  kNone,          // it replays
  kDisabled,      // no buckets
  kExtend,        // some rank extends
  kTooLarge,      // no bucket holds the batch (or, without padding, equals it)
  kRankCannot,    // some rank's batch needs eager
  kNormalDispatch,// deepep mode normal is not capturable
  kEmpty,         // nothing to run
};
std::string_view graph_miss_name(GraphMiss miss);

/// One micro-batch, for all DP ranks.
struct MicroBatchPlan {
  std::vector<int64_t> num_tokens;  // real rows of each DP rank
  std::vector<int64_t> rows;        // rows with padding: multiples of attn_tp_size
  PaddingMode padding = PaddingMode::kNone;  // kNone when nothing is gathered
  std::vector<int64_t> start;       // first row of each DP rank in the gathered buffer
  int64_t gathered_rows = 0;        // rows of the gathered buffer; 0 when nothing is gathered
  int64_t expert_chunks = 1;        // times that dispatch, experts, combine run
};

/// All that ranks must agree on about one step. The same on every rank, bit for bit.
struct StepPlan {
  uint64_t step_id = 0;
  bool run = false;                  // false: no rank has rows, nothing happens
  bool is_extend_in_batch = false;
  std::vector<ForwardMode> modes;    // of each DP rank
  ForwardMode schedule = ForwardMode::kDecode;  // kExtend or kDecode: whose stage list all ranks run
  DispatchMode dispatch = DispatchMode::kNone;
  bool tbo = false;
  std::string_view no_tbo_reason;    // empty if tbo, or if overlap is off
  std::vector<MicroBatchPlan> micro_batches;    // one, or two with tbo
  std::vector<int64_t> graph_bucket; // of each DP rank: rows to replay, 0 for eager
  std::vector<GraphMiss> graph_miss;
  std::vector<int64_t> logit_rows;   // of each DP rank, as run (a replayed rank: its bucket)
  int64_t logit_chunks = 1;

  /// Over everything above.
  [[nodiscard]] uint64_t hash() const;
};

/// The agreement: pure, host only, no clock, no globals. `states` holds one entry a DP rank.
///
/// Rules: semantics 2.2 (idle batches), 2.3 and 3.1 (padding), 4.4 (graphs; one shared bucket when anything is
/// gathered, each rank's own otherwise), 6.1 (dispatch mode), 1.7 (overlap, policy kSglang). An idle rank takes
/// part with zero rows. With policy kAny the step splits if every rank with tokens can be split or has at least
/// one row in some micro-batch, and some rank has rows in both.
/// Throws Error if the states disagree on step, configuration or last trace, naming the DP rank.
StepPlan make_step_plan(const std::vector<RankState>& states, const PlanConfig& config);

}  // namespace weft::plan
