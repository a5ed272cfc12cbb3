#include "model/layers/ffn.h"

#include <algorithm>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/experts.h"
#include "ops/gemm.h"
#include "ops/moe.h"

namespace weft::model {

using device::Stream;
using device::TensorView;

DenseFfn::DenseFfn(const ModelConfig& config, WeightMap& weights, const std::string& prefix,
                   int64_t intermediate_size, ShardRank shard)
    : weights_(weights), inter_(intermediate_size / shard.size), dtype_(config.dtype) {
  WEFT_CHECK(intermediate_size % shard.size == 0,
             "{}: width {} cannot be divided over {} ranks; choose a --tp-size that divides it, or "
             "--moe-dense-tp-size 1",
             prefix, intermediate_size, shard.size);
  const int64_t hidden = config.hidden_size;
  const Slice own{shard.rank * inter_, (shard.rank + 1) * inter_};
  gate_up_ = weights.reserve(prefix + "gate_up", dtype_, {2 * inter_, hidden});
  weights.fill(gate_up_, {prefix + "gate_proj.weight", {intermediate_size, hidden}, {own}, -1, 0});
  weights.fill(gate_up_, {prefix + "up_proj.weight", {intermediate_size, hidden}, {own}, -1, inter_});
  down_ = weights.reserve(prefix + "down", dtype_, {hidden, inter_});
  weights.fill(down_, {prefix + "down_proj.weight", {hidden, intermediate_size}, {Slice{}, own}});
}

void DenseFfn::forward(Stream& stream, const Scratch& scratch, const TensorView& x,
                       const TensorView& out) const {
  const int64_t rows = x.shape[0];
  const auto gate_up = scratch.view(ScratchId::kGateUp, dtype_, {rows, 2 * inter_});
  const auto act = scratch.view(ScratchId::kAct, dtype_, {rows, inter_});
  ops::gemm_silu_mul(stream, {.out = act, .gate_up = gate_up, .a = x, .w = weights_.view(gate_up_)});
  ops::gemm(stream, {.out = out, .a = act, .w = weights_.view(down_), .bias = {}});
}

void DenseFfn::need(Scratch& scratch, int64_t max_rows) const {
  const auto size = static_cast<int64_t>(dtype_size(dtype_));
  scratch.need(ScratchId::kGateUp, max_rows * 2 * inter_ * size);
  scratch.need(ScratchId::kAct, max_rows * inter_ * size);
}

SparseFfn::SparseFfn(const ModelConfig& config, WeightMap& weights, const std::string& prefix,
                     ExpertShard experts, ShardRank shared)
    : weights_(weights),
      moe_(config.moe),
      hidden_(config.hidden_size),
      local_experts_(config.moe.num_experts / experts.ep_size),
      first_expert_(experts.ep_rank * local_experts_),
      inter_(config.moe.moe_intermediate_size / experts.tp_size),
      dtype_(config.dtype) {
  WEFT_CHECK(moe_.num_experts % experts.ep_size == 0,
             "{}: {} experts cannot be divided over --ep-size {}; choose one that divides them", prefix,
             moe_.num_experts, experts.ep_size);
  WEFT_CHECK(
      moe_.moe_intermediate_size % experts.tp_size == 0,
      "{}: expert width {} cannot be divided over {} ranks; raise --ep-size so that --tp-size / --ep-size "
      "divides it",
      prefix, moe_.moe_intermediate_size, experts.tp_size);
  gate_ = weights.reserve(prefix + "gate", dtype_, {moe_.num_experts, hidden_});
  weights.fill(gate_, {prefix + "gate.weight", {moe_.num_experts, hidden_}});
  if (moe_.has_correction_bias) {
    bias_ = weights.reserve(prefix + "gate.bias", DType::kF32, {moe_.num_experts});
    weights.fill(bias_, {prefix + "gate.e_score_correction_bias", {moe_.num_experts}});
  }
  gate_up_ = weights.reserve(prefix + "experts.gate_up", dtype_, {local_experts_, 2 * inter_, hidden_});
  down_ = weights.reserve(prefix + "experts.down", dtype_, {local_experts_, hidden_, inter_});
  const Slice own{experts.tp_rank * inter_, (experts.tp_rank + 1) * inter_};
  const int64_t full = moe_.moe_intermediate_size;
  for (int64_t e = 0; e < local_experts_; ++e) {
    const auto name = prefix + "experts." + std::to_string(first_expert_ + e) + ".";
    weights.fill(gate_up_, {name + "gate_proj.weight", {full, hidden_}, {own}, e, 0});
    weights.fill(gate_up_, {name + "up_proj.weight", {full, hidden_}, {own}, e, inter_});
    weights.fill(down_, {name + "down_proj.weight", {hidden_, full}, {Slice{}, own}, e});
  }
  if (moe_.n_shared_experts > 0) {
    shared_.emplace(config, weights, prefix + "shared_experts.", moe_.shared_intermediate_size(), shared);
  }
}

void SparseFfn::gate(Stream& stream, const Scratch& scratch, const TensorView& x) const {
  const auto logits = scratch.view(ScratchId::kRouterLogits, DType::kF32, {x.shape[0], moe_.num_experts});
  ops::gemm(stream, {.out = logits, .a = x, .w = weights_.view(gate_), .bias = {}});
}

ops::RouteArgs SparseFfn::route_args(const Scratch& scratch, int64_t rows,
                                     const ops::ValidRows& valid) const {
  return {.ids = scratch.view(ScratchId::kTopkIds, DType::kI32, {rows, top_k()}),
          .weights = scratch.view(ScratchId::kTopkWeights, DType::kF32, {rows, top_k()}),
          .logits = scratch.view(ScratchId::kRouterLogits, DType::kF32, {rows, moe_.num_experts}),
          .bias = bias_view(weights_, bias_),
          .valid = valid,
          .scoring = moe_.scoring,
          .group_score = moe_.group_score,
          .num_groups = static_cast<int32_t>(moe_.n_group),
          .top_groups = static_cast<int32_t>(moe_.topk_group),
          .renormalize = moe_.norm_topk_prob,
          .scaling = moe_.routed_scaling_factor};
}

ops::GroupArgs SparseFfn::group_args(const Scratch& scratch, int64_t rows, device::Backend backend) const {
  return {.ids = {},
          .offsets = scratch.view(ScratchId::kExpertOffsets, DType::kI32, {local_experts_ + 1}),
          .source = scratch.view(ScratchId::kCopySource, DType::kI32, {max_copies(rows, backend)}),
          .position = scratch.view(ScratchId::kCopyPosition, DType::kI32, {rows, top_k()}),
          .num_rows = nullptr,
          .first_expert = 0,
          .total_experts = static_cast<int32_t>(local_experts_),
          .alignment = ops::expert_alignment(backend, sizes(rows))};
}

void SparseFfn::select(Stream& stream, const Scratch& scratch, int64_t rows,
                       const ops::ValidRows& valid) const {
  ops::route(stream, route_args(scratch, rows, valid));
}

void SparseFfn::select_and_group(Stream& stream, const Scratch& scratch, int64_t rows,
                                 const ops::ValidRows& valid) const {
  ops::GroupArgs groups = group_args(scratch, rows, stream.device().backend());
  groups.first_expert = static_cast<int32_t>(first_expert_);
  groups.total_experts = static_cast<int32_t>(moe_.num_experts);
  ops::route_and_group(stream, {.route = route_args(scratch, rows, valid), .groups = groups});
}

void SparseFfn::group(Stream& stream, const Scratch& scratch, const TensorView& ids,
                      const int32_t* num_rows) const {
  ops::GroupArgs groups = group_args(scratch, ids.shape[0], stream.device().backend());
  groups.ids = ids;
  groups.num_rows = num_rows;
  ops::group_copies(stream, groups);
}

void SparseFfn::experts(Stream& stream, const Scratch& scratch, const ExpertRows& rows) const {
  const int64_t n = rows.x.shape[0];
  const ops::GroupArgs groups = group_args(scratch, n, stream.device().backend());
  const auto cut = [&](ScratchId id, int64_t columns) {
    return scratch.view(id, dtype_, {groups.source.shape[0], columns});
  };
  const auto out = cut(ScratchId::kExpertOut, hidden_);
  ops::expert_ffn_and_combine(stream, {.experts = {.out = out,
                                                   .x = rows.x,
                                                   .gate_up = weights_.view(gate_up_),
                                                   .down = weights_.view(down_),
                                                   .offsets = groups.offsets,
                                                   .source = groups.source,
                                                   .alignment = groups.alignment,
                                                   .copies = cut(ScratchId::kCopies, hidden_),
                                                   .gate_up_out = cut(ScratchId::kExpertGateUp, 2 * inter_),
                                                   .act = cut(ScratchId::kExpertAct, inter_)},
                                       .combine = {.out = rows.out,
                                                   .x = {},
                                                   .position = groups.position,
                                                   .weights = rows.weights,
                                                   .num_rows = rows.num_rows}});
}

void SparseFfn::masked_experts(Stream& stream, const Scratch& scratch, const ExpertRows& rows,
                               const TensorView& ids) const {
  const int64_t n = rows.x.shape[0];
  const auto counts = scratch.view(ScratchId::kExpertCounts, DType::kI32, {local_experts_});
  const auto position = scratch.view(ScratchId::kCopyPosition, DType::kI32, {n, top_k()});
  const auto cut = [&](ScratchId id, int64_t columns) {
    return scratch.view(id, dtype_, {local_experts_, n, columns});
  };
  const auto copies = cut(ScratchId::kCopies, hidden_);
  const auto gate_up = cut(ScratchId::kExpertGateUp, 2 * inter_);
  const auto act = cut(ScratchId::kExpertAct, inter_);
  const auto out = cut(ScratchId::kExpertOut, hidden_);
  const auto* count = counts.as<const int32_t>();
  ops::moe_permute(stream, {.ids = ids,
                            .x = rows.x,
                            .out = copies,
                            .counts = counts,
                            .position = position,
                            .num_rows = rows.num_rows});
  ops::grouped_gemm(stream, {.out = gate_up, .a = copies, .w = weights_.view(gate_up_), .counts = count});
  ops::silu_mul(stream, {.out = act, .gate_up = gate_up, .num_rows = count});
  ops::grouped_gemm(stream, {.out = out, .a = act, .w = weights_.view(down_), .counts = count});
  ops::moe_unpermute(stream, {.out = rows.out,
                              .x = out.reshape({local_experts_ * n, hidden_}),
                              .position = position,
                              .weights = rows.weights,
                              .num_rows = rows.num_rows});
}

void SparseFfn::shared(Stream& stream, const Scratch& scratch, const TensorView& x,
                       const TensorView& out) const {
  shared_->forward(stream, scratch, x, out);
}

void SparseFfn::need(Scratch& scratch, int64_t route_rows, int64_t expert_rows, int64_t masked_rows) const {
  const auto size = static_cast<int64_t>(dtype_size(dtype_));
  scratch.need(ScratchId::kRouterLogits, route_rows * moe_.num_experts * 4);
  scratch.need(ScratchId::kTopkIds, route_rows * top_k() * 4);
  scratch.need(ScratchId::kTopkWeights, route_rows * top_k() * 4);
  scratch.need(ScratchId::kExpertOffsets, (local_experts_ + 1) * 4);
  scratch.need(ScratchId::kExpertCounts, local_experts_ * 4);
  scratch.need(ScratchId::kCopyPosition, std::max(expert_rows, masked_rows) * top_k() * 4);
  // The ledger is made before there is a device: room for the larger alignment.
  const int64_t packed = max_copies(expert_rows, device::Backend::kCuda);
  const int64_t copies = std::max(packed, masked_rows * local_experts_);
  scratch.need(ScratchId::kCopySource, packed * 4);
  scratch.need(ScratchId::kCopies, copies * hidden_ * size);
  scratch.need(ScratchId::kExpertGateUp, copies * 2 * inter_ * size);
  scratch.need(ScratchId::kExpertAct, copies * inter_ * size);
  scratch.need(ScratchId::kExpertOut, copies * hidden_ * size);
  if (shared_) {
    shared_->need(scratch, route_rows);
    scratch.need(ScratchId::kSharedOut, route_rows * hidden_ * size);
  }
}

}  // namespace weft::model
