#include "plan/stages.h"

#include <algorithm>

#include "base/error.h"
#include "plan/splitter.h"

namespace weft::plan {
namespace {

constexpr int kMaxStages = 1 << 20;

// Builds stages from operations and yields. A yield ends the stage; with nothing in it, it is no stage.
class StageList {
 public:
  void add(int layer, std::initializer_list<LayerOp> ops) {
    for (const LayerOp op : ops) current_.push_back({layer, op});
  }
  void yield() {
    if (!current_.empty()) stages_.push_back(std::move(current_));
    current_.clear();
  }
  std::vector<Stage> finish() {
    yield();
    return std::move(stages_);
  }

 private:
  std::vector<Stage> stages_;
  Stage current_;
};

using enum LayerOp;

void add_attention(StageList& list, int layer, bool decode) {
  list.add(layer, {kPrepareAttn, kAttnPrepare});
  if (decode) list.yield();
  list.add(layer, {kAttnCore, kPrepareMlp});
}

void add_dispatched(StageList& list, int layer, bool decode, bool has_shared_experts) {
  add_attention(list, layer, decode);
  list.add(layer, {kPrepareMlpWait, kGate, kSelectExperts});
  if (decode) list.yield();
  list.add(layer, {kDispatchA});
  if (decode && has_shared_experts) list.add(layer, {kSharedExperts});
  list.yield();
  list.add(layer, {kDispatchB, kExperts, kCombineA});
  list.yield();
  if (!decode && has_shared_experts) list.add(layer, {kSharedExperts});
  list.add(layer, {kCombineB});
  // With shared experts the layer's last stage merges with the next layer's first; without, it stands alone.
  if (decode && has_shared_experts) list.yield();
  list.add(layer, {kOutput, kPostprocess, kPostprocessWait});
  if (decode && !has_shared_experts) list.yield();
}

void add_gathered(StageList& list, int layer, bool decode, bool sparse, bool has_shared_experts) {
  add_attention(list, layer, decode);
  list.yield();
  list.add(layer, {kPrepareMlpWait});
  if (sparse) {
    list.add(layer, {kGate, kSelectExperts, kExperts});
    if (has_shared_experts) list.add(layer, {kSharedExperts});
    list.add(layer, {kOutput});
  } else {
    list.add(layer, {kMlp});
  }
  list.add(layer, {kPostprocess});
  list.yield();
  list.add(layer, {kPostprocessWait});
}

}  // namespace

std::string_view layer_op_name(LayerOp op) {
  switch (op) {
    case kPrepareAttn:
      return "op_comm_prepare_attn";
    case kAttnPrepare:
      return "op_prepare";
    case kAttnCore:
      return "op_core";
    case kPrepareMlp:
      return "op_comm_prepare_mlp";
    case kPrepareMlpWait:
      return "op_comm_prepare_mlp_wait";
    case kMlp:
      return "op_mlp";
    case kGate:
      return "op_gate";
    case kSelectExperts:
      return "op_select_experts";
    case kDispatchA:
      return "op_dispatch_a";
    case kDispatchB:
      return "op_dispatch_b";
    case kExperts:
      return "op_experts";
    case kSharedExperts:
      return "op_shared_experts";
    case kCombineA:
      return "op_combine_a";
    case kCombineB:
      return "op_combine_b";
    case kOutput:
      return "op_output";
    case kPostprocess:
      return "op_comm_postprocess_layer";
    case kPostprocessWait:
      return "op_comm_postprocess_layer_wait";
  }
  return "?";
}

StagePlan make_stage_plan(const std::vector<LayerLayout>& layouts, ForwardMode schedule,
                          DispatchMode dispatch, bool has_shared_experts) {
  WEFT_CHECK(schedule == ForwardMode::kExtend || schedule == ForwardMode::kDecode,
             "make_stage_plan: the schedule of a step is EXTEND or DECODE, not {}",
             forward_mode_name(schedule));
  const bool decode = schedule == ForwardMode::kDecode;
  StageList list;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const int layer = static_cast<int>(i);
    if (layouts[i].sparse && dispatch != DispatchMode::kNone) {
      add_dispatched(list, layer, decode, has_shared_experts);
    } else {
      add_gathered(list, layer, decode, layouts[i].sparse, has_shared_experts);
    }
  }
  return {list.finish(), decode ? 2 : 0};
}

std::vector<std::pair<int, int>> stage_order(int num_stages, int delta_stages, int num_micro_batches) {
  WEFT_CHECK(num_stages >= 0 && num_stages <= kMaxStages && delta_stages >= 0,
             "stage_order: num_stages={} and delta_stages={} must be at least 0, num_stages at most {}",
             num_stages, delta_stages, kMaxStages);
  WEFT_CHECK(num_micro_batches >= 1 && num_micro_batches <= kMaxMicroBatches,
             "stage_order: num_micro_batches={} must be 1..{}", num_micro_batches, kMaxMicroBatches);
  const int delta = std::min(delta_stages, num_stages);
  std::vector<std::pair<int, int>> order;
  order.reserve(static_cast<size_t>(num_micro_batches) * static_cast<size_t>(num_stages));
  for (int turn = 0; turn < num_stages + delta * (num_micro_batches - 1); ++turn) {
    for (int batch = 0; batch < num_micro_batches; ++batch) {
      const int stage = turn - batch * delta;
      if (stage >= 0 && stage < num_stages) order.emplace_back(batch, stage);
    }
  }
  return order;
}

}  // namespace weft::plan
