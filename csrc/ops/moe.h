#pragma once

#include "ops/common.h"

namespace weft::ops {

enum class Scoring : uint8_t { kSoftmax, kSigmoid };
enum class GroupScore : uint8_t { kNone, kMax, kSumOfTop2 };

struct RouteArgs {
  TensorView ids;      // i32 [num_tokens, top_k], out; -1 on padding rows
  TensorView weights;  // f32 [num_tokens, top_k], out; 0 on padding rows
  TensorView logits;   // f32 [num_tokens, num_experts]
  TensorView bias;     // f32 [num_experts] added to scores for the choice alone (DeepSeek-V3), or undefined
  ValidRows valid;
  Scoring scoring = Scoring::kSoftmax;
  GroupScore group_score = GroupScore::kNone;
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  bool renormalize = false;  // weights of a token sum to 1 before scaling
  float scaling = 1.0F;      // routed_scaling_factor
};
/// Chooses top_k experts a token: softmax (Qwen3-MoE, DeepSeek-V2, also group limited) or sigmoid with a bias
/// and groups (DeepSeek-V3). Scores plus bias choose: first top_groups groups by group_score (unless kNone),
/// then the experts in them. Weights are the scores without bias, renormalised (their sum gets + 1e-20), then
/// scaled. Ties go to the lower id. Ids stand in order of falling score plus bias.
void route(Stream& stream, const RouteArgs& args);

struct PermuteArgs {
  TensorView ids;       // i32 [rows, top_k], local expert ids; -1 is skipped
  TensorView x;         // [rows, hidden]
  TensorView out;       // [num_experts, max_rows, hidden]
  TensorView counts;    // i32 [num_experts] out: rows of each expert
  TensorView position;  // i32 [rows, top_k] out: row in `out` (flattened) of each copy; -1 if none
  const int32_t* num_rows = nullptr;  // device i32 [1]: rows beyond it do not exist; null: all rows
};
/// Copies rows to their experts, in order of row, for masked products. Throws (when run) if the rows of an
/// expert pass max_rows, or if an id is out of range. ops/experts.h has the form without room to spare.
void moe_permute(Stream& stream, const PermuteArgs& args);

struct UnpermuteArgs {
  TensorView out;       // [rows, hidden]
  TensorView x;         // [total_rows, hidden]: what the experts left, flattened
  TensorView position;  // i32 [rows, top_k]
  TensorView weights;   // f32 [rows, top_k]
  const int32_t* num_rows = nullptr;
};
/// out[r] = sum over k of weights[r, k] * x[position[r, k]] in f32, in order of k; copies with -1 add
/// nothing.
void moe_unpermute(Stream& stream, const UnpermuteArgs& args);
/// Throws Error if moe_unpermute() would refuse `args`; `op` names who asks.
void check_unpermute(const char* op, const UnpermuteArgs& args);

}  // namespace weft::ops
