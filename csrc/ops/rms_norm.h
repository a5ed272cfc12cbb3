#pragma once

#include "ops/common.h"

namespace weft::ops {

struct RmsNormArgs {
  TensorView out;         // [rows, dim] or [rows, heads, dim]
  TensorView x;           // same shape; may be strided, may alias out
  TensorView weight;      // [dim], a weight
  TensorView residual{};  // same shape: becomes x as it is; undefined: x is not kept
  float eps = 1e-6F;
};
/// out = x * rsqrt(mean(x^2) + eps) * weight over the last dimension, in f32. Keeping x starts the sum to
/// which add_rms_norm adds.
void rms_norm(Stream& stream, const RmsNormArgs& args);

struct AddRmsNormArgs {
  TensorView out;       // [rows, dim]
  TensorView residual;  // [rows, dim]; residual += x, in place
  TensorView x;         // [rows, dim]; may alias out
  TensorView weight;    // [dim], a weight
  float eps = 1e-6F;
};
/// residual += x (rounded to residual's dtype), then out = rms_norm(residual).
void add_rms_norm(Stream& stream, const AddRmsNormArgs& args);

}  // namespace weft::ops
