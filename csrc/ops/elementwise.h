#pragma once

#include "ops/common.h"

namespace weft::ops {

struct AddArgs {
  TensorView out;  // [rows, dim]; may alias a or b
  TensorView a;
  TensorView b;
};
/// out = a + b, in f32, rounded once.
void add(Stream& stream, const AddArgs& args);

struct CastArgs {
  TensorView out;  // [rows, dim]
  TensorView x;    // [rows, dim]; float dtypes may differ; strided rows are legal
};
/// out = x, converted by way of f32.
void cast(Stream& stream, const CastArgs& args);

struct SiluMulArgs {
  TensorView out;      // [rows, inter] or [groups, rows, inter]
  TensorView gate_up;  // [rows, 2 * inter] or [groups, rows, 2 * inter]: gate, then up
  /// Rank 2: device i32 [1], only the rows before *num_rows are computed; null computes all.
  /// Rank 3: device i32 [groups], the same for each group.
  const int32_t* num_rows = nullptr;
};
/// out = silu(gate) * up, in f32.
void silu_mul(Stream& stream, const SiluMulArgs& args);

}  // namespace weft::ops
