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
  [[nodiscard]] std::string describe() const;
};

/// What of a model the trace depends on.
struct ModelShape {
  std::vector<bool> sparse_pattern;
  int64_t hidden = 0;
  int64_t vocab = 0;
  DType dtype = DType::kF32;
  bool has_shared_experts = false;
};

/// Collectives that `rank` executes, in the order in which it enqueues them, without running anything.
std::vector<CollectiveRecord> step_trace(const StepPlan& plan, const PlanConfig& config, const ModelShape& model,
                                         int rank);
uint64_t trace_hash(const std::vector<CollectiveRecord>& trace);

}  // namespace weft::plan
