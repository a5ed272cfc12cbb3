#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "device/device.h"
#include "model/config.h"
#include "model/layers/attention.h"
#include "model/scratch.h"
#include "model/weight_map.h"
#include "ops/common.h"

namespace weft::model {

/// SwiGLU: down(silu(gate(x)) * up(x)), the inner width sharded over a group. Leaves a partial sum over it.
class DenseFfn {
 public:
  /// prefix: "model.layers.0.mlp.".
  DenseFfn(const ModelConfig& config, WeightMap& weights, const std::string& prefix,
           int64_t intermediate_size, ShardRank shard);
  /// x, out: [rows, hidden]; gate_up and act: scratch of the caller's choice.
  void forward(device::Stream& stream, const Scratch& scratch, const device::TensorView& x,
               const device::TensorView& out) const;
  void need(Scratch& scratch, int64_t max_rows) const;

 private:
  const WeightMap& weights_;
  int64_t inter_;
  DType dtype_;
  WeightId gate_up_, down_;
};

/// How routed experts are divided: expert groups, and the inner width within a group.
struct ExpertShard {
  int ep_size = 1, ep_rank = 0;
  int tp_size = 1, tp_rank = 0;
};

/// Rows that experts work on.
struct ExpertRows {
  device::TensorView x;               // [rows, hidden]
  device::TensorView ids;             // i32 [rows, top_k], local expert ids; -1 is skipped
  device::TensorView weights;         // f32 [rows, top_k]
  device::TensorView out;             // [rows, hidden]: the weighted sum of the rows' local experts
  const int32_t* num_rows = nullptr;  // device [1], or null: all rows
  bool masked = false;                // fixed shape for each expert (low latency), else rows packed by expert
};

/// A mixture of experts: router, routed experts, shared experts.
class SparseFfn {
 public:
  SparseFfn(const ModelConfig& config, WeightMap& weights, const std::string& prefix, ExpertShard experts,
            ShardRank shared);

  /// Router logits of x [rows, hidden], kept in scratch.
  void gate(device::Stream& stream, const Scratch& scratch, const device::TensorView& x) const;
  /// Chooses experts from the logits: scratch kTopkIds (global ids; -1 on rows that are not valid),
  /// kTopkWeights.
  void select(device::Stream& stream, const Scratch& scratch, int64_t rows,
              const ops::ValidRows& valid) const;
  /// Global ids to this rank's (kTopkIds to kLocalIds): -1 for experts of other ranks.
  void localize(device::Stream& stream, const Scratch& scratch, int64_t rows) const;
  void experts(device::Stream& stream, const Scratch& scratch, const ExpertRows& rows) const;
  [[nodiscard]] bool has_shared() const { return shared_.has_value(); }
  void shared(device::Stream& stream, const Scratch& scratch, const device::TensorView& x,
              const device::TensorView& out) const;

  [[nodiscard]] int64_t top_k() const { return moe_.num_experts_per_tok; }
  [[nodiscard]] int64_t num_local_experts() const { return local_experts_; }

  /// route_rows: rows of gate, select, localize and shared; expert_rows: of experts; masked: of the masked
  /// form.
  void need(Scratch& scratch, int64_t route_rows, int64_t expert_rows, int64_t masked_rows) const;

 private:
  const WeightMap& weights_;
  MoeConfig moe_;
  int64_t hidden_, local_experts_, first_expert_, inter_;
  DType dtype_;
  WeightId gate_, bias_, gate_up_, down_;
  std::optional<DenseFfn> shared_;
};

}  // namespace weft::model
