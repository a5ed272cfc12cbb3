#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/collective.h"
#include "base/dtype.h"
#include "plan/layout.h"
#include "plan/step_plan.h"

namespace weft::plan {

enum class Group : uint8_t { kTp, kAttnTp };
std::string_view group_name(Group group);  // "tp", "attn_tp"

/// One collective of a step. count: elements of the larger side (all-reduce: the tensor; reduce-scatter: in;
/// all-gather: out); dispatch and combine: capacity, chunk rows * group size * hidden.
struct CollectiveRecord {
  Collective op{};
  Group group{};
  DType dtype{};
  int64_t count = 0;
  int micro_batch = 0;
  int layer = -1;  // -1: before or after the layers

  bool operator==(const CollectiveRecord&) const = default;
  /// "all_gather of 4096 bf16 in tp, micro-batch 1, layer 3"
  [[nodiscard]] std::string describe() const;
};

/// What of a model the trace depends on.
struct ModelShape {
  std::vector<bool> sparse_pattern;
  int64_t hidden = 0;
  int64_t vocab = 0;
  DType dtype = DType::kF32;
  int64_t latent_width = 0;  // of what attention gathers of a row instead of the row; 0: the row
  bool has_shared_experts = false;
};

/// Collectives that `rank` executes, in the order in which it enqueues them on the host, without running
/// anything. `config` is the one that the plan was made from. Empty if nothing runs. Throws Error for a rank
/// outside it. The kTp records are the same on every rank; the kAttnTp records inside
/// each group.
///
/// Embedding of micro-batch 0, then 1; the stages of make_stage_plan() in stage_order() (without overlap one
/// after the other); the LM head. P: the micro-batch's rows of the rank's DP rank; t, n: attn_tp_size,
/// tp_size; G: gathered_rows; H: hidden. dtype is the model's unless said; what has count 0 or a group of one
/// rank is left out, dispatch and combine excepted: they are called whatever the group.
///  embedding (layer -1)   all_reduce(attn_tp, P*H); layernorm_sp: reduce_scatter(attn_tp, P*H)
///  kPrepareAttn           scattered_to_tp_attn_full: all_gather(attn_tp, P*W); W: latent_width if it has
///  one, else H kPrepareMlp  simple    nothing
///               gather    attn_dp == 1: [input layout SCATTERED: all_gather(attn_tp, P*H) of the residual,]
///                         all_reduce(attn_tp, P*H)
///                         attn_dp > 1: reduce_scatter(attn_tp, P*H), all_gather(tp, G*H); the residual is
///                         added to the slice between them, so it is never gathered on its own
///               scatter   reduce_scatter(attn_tp, P*H)
///               gather_hidden_states: reduce_scatter(attn_tp, P*H); then normed rows: attn_dp == 1:
///                         all_gather(attn_tp, P*H), attn_dp > 1: all_gather(tp, G*H)
///  kDispatchA             dispatch(tp, C*n*H) of chunk 0; C: the dispatch mode's chunk rows
///  kExperts (dispatched)  for chunks 0 .. expert_chunks - 2: combine of it, dispatch of the next
///  kCombineA              combine(tp, C*n*H) of the last chunk
///  kPostprocess FFN is FULL: the sum that it owes: attn_dp == 1: all_reduce(attn_tp, P*H), although its name
///  is
///                         trivial; attn_dp > 1: reduce_scatter(tp, G*H), all_gather(attn_tp, P*H);
///                         output SCATTERED: the reduce_scatter alone, attn_dp == 1: (attn_tp, P*H)
///               gather    all_gather(attn_tp, P*H)
///  LM head (layer -1, micro-batch 0), each pass c of logit_chunks, L_d = rows of DP rank d in it:
///    layernorm_sp: all_reduce(attn_tp, L_d * H): each row comes from the rank that has it
///    attn_dp > 1, no DP LM head: all_gather(tp, sum L_d * H); all_gather(tp, f32, n * sum L_d * ceil(vocab /
///    n)) else: all_gather(attn_tp, f32, t * L_d * ceil(vocab / t)) with the rank's own L_d
std::vector<CollectiveRecord> step_trace(const StepPlan& plan, const PlanConfig& config,
                                         const ModelShape& model, int rank);
/// Over every record: what one rank ran, or was to run.
uint64_t trace_hash(const std::vector<CollectiveRecord>& trace);
/// Over the kTp records alone: the same on every rank, so it goes into RankState::trace_hash.
uint64_t shared_trace_hash(const std::vector<CollectiveRecord>& trace);

}  // namespace weft::plan
