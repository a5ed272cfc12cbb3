#pragma once

#include "ops/moe.h"

/// Routed experts on rows packed by expert. A copy is a row of x at one of its experts; copies stand in a
/// buffer of max_rows rows, one expert behind the other: expert e has the rows
///   [round_up(offsets[e], alignment), offsets[e + 1]).
namespace weft::ops {

struct ExpertSizes {
  int64_t copies, num_experts, hidden, inter;
  DType dtype;
};
/// The alignment with which a device of `backend` computes so many copies fastest. Grows with the copies.
[[nodiscard]] int32_t expert_alignment(device::Backend backend, const ExpertSizes& sizes);

struct GroupArgs {
  TensorView ids;       // i32 [rows, top_k], expert ids, no expert twice in a row; -1 is skipped
  TensorView offsets;   // i32 [num_experts + 1] out
  TensorView source;    // i32 [max_rows] out: the row of x that stands there; -1 where none does
  TensorView position;  // i32 [rows, top_k] out: where the copy stands; -1 if nowhere
  const int32_t* num_rows = nullptr;  // device i32 [1]: rows beyond it do not exist; null: all rows
  int32_t first_expert = 0;           // of num_experts; copies for others stand nowhere
  int32_t total_experts = 0;          // every id is below it
  int32_t alignment = 1;
};
/// Gives each copy a place: by expert, then in order of row. Throws (when run) if the copies pass max_rows,
/// or if an id is out of range.
void group_copies(Stream& stream, const GroupArgs& args);

struct RouteAndGroupArgs {
  RouteArgs route;
  GroupArgs groups;  // of route.ids; its own ids and num_rows are not given
};
/// route(), then group_copies() of what it chose: one kernel where rows are few.
void route_and_group(Stream& stream, const RouteAndGroupArgs& args);

struct ExpertFfnArgs {
  TensorView out;      // [max_rows, hidden]
  TensorView x;        // [rows, hidden]
  TensorView gate_up;  // [num_experts, 2 * inter, hidden]: gate, then up
  TensorView down;     // [num_experts, hidden, inter]
  TensorView offsets;  // i32 [num_experts + 1]
  TensorView source;   // i32 [max_rows]
  int32_t alignment = 1;
  TensorView copies;       // workspace [max_rows, hidden]
  TensorView gate_up_out;  // workspace [max_rows, 2 * inter]
  TensorView act;          // workspace [max_rows, inter]
};
/// out = down(silu(gate) * up) of each copy. The same bits as rows of x copied by `source`, then
/// grouped_gemm, silu_mul and grouped_gemm; workspace is written as far as these are separate kernels. Rows
/// of out that hold no copy are undefined. gate_up and down are weights: nothing that a device runs may write
/// them.
void expert_ffn(Stream& stream, const ExpertFfnArgs& args);

struct ExpertFfnAndCombineArgs {
  ExpertFfnArgs experts;
  UnpermuteArgs combine;  // of experts.out, which is workspace then; its own x is not given
};
/// expert_ffn(), then moe_unpermute() of what it left, with the same bits: joined kernels where rows are few.
void expert_ffn_and_combine(Stream& stream, const ExpertFfnAndCombineArgs& args);

}  // namespace weft::ops
