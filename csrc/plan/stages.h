#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "plan/forward_mode.h"
#include "plan/layout.h"
#include "plan/parallel.h"

namespace weft::plan {

/// One operation of a layer, as the stage executor knows it. The *Wait halves end what an operation started
/// on the communication stream; without overlap both halves run on the compute stream.
enum class LayerOp : uint8_t {
  kPrepareAttn,  // boundary into attention (norm; all-gather)
  kAttnPrepare,  // projections, q/k norm, rope, KV write
  kAttnCore,     // attention and output projection
  kPrepareMlp,   // boundary into the FFN; a gather is only started
  kPrepareMlpWait,
  kMlp,   // dense FFN
  kGate,  // router logits
  kSelectExperts,
  kDispatchA,
  kDispatchB,
  kExperts,
  kSharedExperts,
  kCombineA,
  kCombineB,
  kOutput,       // joins routed and shared experts
  kPostprocess,  // boundary out of the FFN; a scatter is only started
  kPostprocessWait,
};
constexpr int64_t kNumLayerOps = static_cast<int64_t>(LayerOp::kPostprocessWait) + 1;
/// SGLang's: "op_comm_prepare_attn", "op_dispatch_a", ...; a *Wait half adds "_wait".
std::string_view layer_op_name(LayerOp op);

struct StageOp {
  int layer = 0;
  LayerOp op{};
};
using Stage = std::vector<StageOp>;

/// How the layers of a model are cut for overlap. `schedule` is kExtend or kDecode: the step's, not the
/// rank's.
struct StagePlan {
  std::vector<Stage> stages;
  int delta_stages = 0;
};

/// Operations and yields ("|") of all layers (semantics 1.8), dense layers and dispatch mode kNone included.
/// Stages of neighbouring layers merge where no yield stands between them; a trailing yield makes no stage.
///  EXTEND, delta 0
///    dispatched: prepare_attn attn_prepare attn_core prepare_mlp prepare_mlp_wait gate select_experts
///    dispatch_a |
///      dispatch_b experts combine_a | shared_experts combine_b output postprocess postprocess_wait
///    gathered: prepare_attn attn_prepare attn_core prepare_mlp | prepare_mlp_wait gate select_experts
///    experts
///      shared_experts output postprocess | postprocess_wait
///  DECODE, delta 2
///    dispatched, shared experts (SGLang's DeepSeek): prepare_attn attn_prepare | attn_core prepare_mlp
///      prepare_mlp_wait gate select_experts | dispatch_a shared_experts | dispatch_b experts combine_a |
///      combine_b | output postprocess postprocess_wait
///    dispatched, none (SGLang's Qwen3-MoE): ... | dispatch_a | dispatch_b experts combine_a |
///      combine_b output postprocess postprocess_wait |
///    gathered: prepare_attn attn_prepare | attn_core prepare_mlp | (as EXTEND)
///  dense layers: as gathered, with mlp for gate ... output
/// Throws Error if `schedule` is neither kExtend nor kDecode.
StagePlan make_stage_plan(const std::vector<LayerLayout>& layouts, ForwardMode schedule,
                          DispatchMode dispatch, bool has_shared_experts);

/// The order in which micro-batches run their stages: {micro_batch, stage} pairs. Each starts `delta` stages
/// behind the one before it; in between they take turns. So of two, a runs `delta` stages alone, then they
/// alternate, then b ends alone; with delta >= num_stages, all of a and then all of b. Throws Error if a
/// number is negative or above 2^20 stages, or num_micro_batches is not 1..kMaxMicroBatches.
std::vector<std::pair<int, int>> stage_order(int num_stages, int delta_stages, int num_micro_batches = 2);

}  // namespace weft::plan
