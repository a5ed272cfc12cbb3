#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "plan/parallel.h"

namespace weft::plan {

/// On which ranks a token's row is present.
enum class Layout : uint8_t {
  kScattered,   // one rank
  kTpAttnFull,  // all ranks of one attention-TP group
  kFull,        // all ranks
};
std::string_view layout_name(Layout layout);  // "SCATTERED", "TP_ATTN_FULL", "FULL"

/// What happens before attention, between attention and the FFN, and after the FFN (semantics 5.3).
///
/// The names tell how rows move. An FFN whose layout is FULL also owes the sum over the TP group of its
/// ranks' column shards: kScatterHiddenStates takes the sum and leaves the rows of the output layout; with
/// attn_dp_size == 1 and full output rows none moves, so the postprocess is kTrivial, but if tp_size > 1 the
/// sum is still owed, as an all-reduce.
enum class PrepareAttn : uint8_t { kTrivial, kScatteredToTpAttnFull };
enum class PrepareMlp : uint8_t {
  kSimple,
  kGatherHiddenStatesAndResidual,
  kScatterHiddenStatesAndResidual,
  kGatherHiddenStates,  // sequence-parallel layernorm: only normed rows are gathered, the residual stays put
};
enum class Postprocess : uint8_t { kTrivial, kScatterHiddenStates, kGather };
std::string_view prepare_attn_name(PrepareAttn op);  // "trivial", "scattered_to_tp_attn_full"
std::string_view prepare_mlp_name(PrepareMlp op);    // "simple", "gather_hidden_states_and_residual", ...
std::string_view postprocess_name(Postprocess op);   // "trivial", "scatter_hidden_states", "gather"

struct LayerLayout {
  bool sparse = false;
  Layout input{}, attn{}, mlp{}, middle_residual{}, output{};
  PrepareAttn prepare_attn{};
  PrepareMlp prepare_mlp{};
  Postprocess postprocess{};
};

/// The layouts of each layer of a model (semantics 5.2). sparse_pattern: one entry a layer, true for MoE.
/// Two layouts are equal when the sets of axes (of size > 1) along which rows are sharded are equal.
///
/// layernorm_sp: of a step under sequence-parallel layernorm (StepPlan::layernorm_sp). Between parts rows are
/// then SCATTERED over the attention-TP group from the embedding to the final norm, so that every residual
/// add and norm is of own rows: parts end in a reduce-scatter and start with an all-gather of normed rows.
/// Throws Error if parallel is not valid, or layernorm_sp without enable_layernorm_sp.
std::vector<LayerLayout> layer_layouts(const std::vector<bool>& sparse_pattern,
                                       const ParallelConfig& parallel, bool layernorm_sp = false);

/// Rows of an attention-TP group that one of its ranks has when they are SCATTERED: [begin, end) of the
/// padded rows, of which the first `real` are no padding.
struct RowSlice {
  int64_t begin = 0, end = 0, real = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
  bool operator==(const RowSlice&) const = default;
};
/// padded_rows: a multiple of num_ranks, at least num_tokens. Throws Error if not.
RowSlice scattered_rows(int64_t num_tokens, int64_t padded_rows, int num_ranks, int rank);
/// The slices of all ranks, num_tokens padded to the next multiple of their number (semantics 5.5). With
/// fewer tokens than ranks the last ones have padding alone; without tokens nobody has a row.
/// Throws Error for a count below 0 or above INT32_MAX, or for ranks outside 1..2^16.
std::vector<RowSlice> sequence_parallel_rows(int64_t num_tokens, int num_ranks);

}  // namespace weft::plan
