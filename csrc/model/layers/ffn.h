#pragma once

#include <algorithm>
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
#include "ops/experts.h"

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
  device::TensorView weights;         // f32 [rows, top_k]
  device::TensorView out;             // [rows, hidden]: the weighted sum of the rows' local experts
  const int32_t* num_rows = nullptr;  // device [1], or null: all rows
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
  /// The same, and groups the copies for this rank's experts, as experts() needs them.
  void select_and_group(device::Stream& stream, const Scratch& scratch, int64_t rows,
                        const ops::ValidRows& valid) const;
  /// Groups rows that were received; ids: i32 [rows, top_k], local expert ids; -1 is skipped.
  void group(device::Stream& stream, const Scratch& scratch, const device::TensorView& ids,
             const int32_t* num_rows) const;
  /// Runs the experts on rows that were grouped.
  void experts(device::Stream& stream, const Scratch& scratch, const ExpertRows& rows) const;
  /// Runs them on a fixed shape for each expert (low latency); ids as in group().
  void masked_experts(device::Stream& stream, const Scratch& scratch, const ExpertRows& rows,
                      const device::TensorView& ids) const;
  [[nodiscard]] bool has_shared() const { return shared_.has_value(); }
  void shared(device::Stream& stream, const Scratch& scratch, const device::TensorView& x,
              const device::TensorView& out) const;

  [[nodiscard]] int64_t top_k() const { return moe_.num_experts_per_tok; }
  [[nodiscard]] int64_t num_local_experts() const { return local_experts_; }

  /// route_rows: rows of gate, select and shared; expert_rows: of experts; masked: of the masked
  /// form.
  void need(Scratch& scratch, int64_t route_rows, int64_t expert_rows, int64_t masked_rows) const;

 private:
  [[nodiscard]] ops::RouteArgs route_args(const Scratch& scratch, int64_t rows,
                                          const ops::ValidRows& valid) const;
  /// For ids of local experts, which the caller adds.
  [[nodiscard]] ops::GroupArgs group_args(const Scratch& scratch, int64_t rows,
                                          device::Backend backend) const;
  /// Of the copies of rows: a row meets an expert once.
  [[nodiscard]] ops::ExpertSizes sizes(int64_t rows) const {
    return {.copies = rows * std::min(top_k(), local_experts_),
            .num_experts = local_experts_,
            .hidden = hidden_,
            .inter = inter_,
            .dtype = dtype_};
  }
  /// Room for them, and for what their alignment leaves unused.
  [[nodiscard]] int64_t max_copies(int64_t rows, device::Backend backend) const {
    const ops::ExpertSizes of_rows = sizes(rows);
    return of_rows.copies + local_experts_ * (ops::expert_alignment(backend, of_rows) - 1);
  }

  const WeightMap& weights_;
  MoeConfig moe_;
  int64_t hidden_, local_experts_, first_expert_, inter_;
  DType dtype_;
  WeightId gate_, bias_, gate_up_, down_;
  std::optional<DenseFfn> shared_;
};

}  // namespace weft::model
