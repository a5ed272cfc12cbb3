#pragma once

#include "ops/common.h"

namespace weft::ops {

struct RopeArgs {
  TensorView q;              // [num_tokens, q_heads, rope_dim], may be strided; rotated in place
  TensorView k;              // [num_tokens, k_heads, rope_dim], may be strided; rotated in place
  TensorView positions;      // i32 [num_tokens]; -1 (a padding row) leaves q and k as they are
  TensorView cos_sin;        // f32 [max_positions, rope_dim]: rope_dim / 2 cosines, then as many sines
  bool interleaved = false;  // pairs (2i, 2i+1) as in DeepSeek, else (i, i + rope_dim/2)
};
/// Rotary position embedding. Every scaling variant lives in the cos_sin table.
void rope(Stream& stream, const RopeArgs& args);

}  // namespace weft::ops
