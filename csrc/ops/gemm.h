#pragma once

#include "ops/common.h"

namespace weft::ops {

struct GemmArgs {
  TensorView out;   // [m, n], f32 or dtype of a; rows may be strided
  TensorView a;     // [m, k], f32, bf16 or f16; rows may be strided
  TensorView w;     // [n, k], as checkpoints store it; dtype of a
  TensorView bias;  // [n] or undefined
};
/// out = a * w^T + bias, accumulated in f32. A row of out depends on its row of a alone, bit for bit,
/// whatever the strides and the number of threads; on the CPU whatever m, on CUDA among row counts of one
/// class (up to 16 rows; up to 32; then powers of two). w is a weight here and below: nothing that a device
/// runs may write it before it is waited for, as kernels read ahead of their turn.
void gemm(Stream& stream, const GemmArgs& args);

struct GemmSiluMulArgs {
  TensorView out;      // [m, inter], dtype of a; rows may be strided
  TensorView gate_up;  // [m, 2 * inter], dtype of a: scratch, which holds anything afterwards
  TensorView a;        // [m, k], f32, bf16 or f16; rows may be strided
  TensorView w;        // [2 * inter, k], gate then up; dtype of a
};
/// out = silu(a * gate^T) * (a * up^T): what gemm into gate_up and silu_mul from there leave, rounding in
/// between included. w is a weight, as for gemm.
void gemm_silu_mul(Stream& stream, const GemmSiluMulArgs& args);

struct BatchedGemmArgs {
  TensorView out;  // [m, batch, n], may be strided
  TensorView a;    // [m, batch, k], may be strided
  TensorView w;    // [batch, n, k], any strides: [batch, k, n] memory is passed with stride (.., 1, n)
};
/// out[:, b] = a[:, b] * w[b]^T for each b: MLA's per-head projections. Same rules as gemm for one
/// layout of w; layouts dense in k and dense in n are fast, and sum in orders of their own. Other strides are
/// copied.
void batched_gemm(Stream& stream, const BatchedGemmArgs& args);

struct GroupedGemmArgs {
  TensorView out;  // contiguous: [rows, n]; masked: [groups, rows, n]
  TensorView a;    // contiguous: [rows, k]; masked: [groups, rows, k]
  TensorView w;    // [groups, n, k]
  /// contiguous: device i32 [groups + 1], group g owns the rows
  /// [round_up(offsets[g], alignment), offsets[g + 1]).
  const int32_t* offsets = nullptr;
  int32_t alignment = 1;
  /// masked: device i32 [groups], group g has counts[g] valid rows. Exactly one of the two is given.
  const int32_t* counts = nullptr;
};
/// out rows of group g = a rows of g * w[g]^T; other rows are not touched. Same rule of rows as gemm; on the
/// CPU the same bits. Throws (when run) if offsets or counts do not fit `a`. With an alignment of more than
/// one, kernels of a GPU may write rows between groups, and take offsets as they are.
void grouped_gemm(Stream& stream, const GroupedGemmArgs& args);

}  // namespace weft::ops
