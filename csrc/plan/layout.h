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
/// ranks' column shards: kScatterHiddenStates takes the sum and leaves own rows; with attn_dp_size == 1 no
/// row moves, so the postprocess is kTrivial, but if tp_size > 1 the sum is still owed, as an all-reduce.
enum class PrepareAttn : uint8_t { kTrivial, kScatteredToTpAttnFull };
enum class PrepareMlp : uint8_t { kSimple, kGatherHiddenStatesAndResidual, kScatterHiddenStatesAndResidual };
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
/// Throws Error if parallel is not valid.
std::vector<LayerLayout> layer_layouts(const std::vector<bool>& sparse_pattern,
                                       const ParallelConfig& parallel);

}  // namespace weft::plan
