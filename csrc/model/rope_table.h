#pragma once

#include <vector>

#include "device/tensor.h"
#include "model/config.h"

namespace weft::model {

/// Radians a position for each pair of rotated elements, [rope_dim / 2], with the scaling of `rope.type`.
/// Rounded to f32 step by step as transformers does it, so that far positions agree too.
[[nodiscard]] std::vector<float> rope_inv_freq(const RopeConfig& rope);

/// Fills the table that rope reads (ops/rope_write.h): row p holds rope_dim / 2 cosines of p * inv_freq, then
/// as many sines, all times attention_factor. cos_sin: f32 [num_positions, rope_dim], host memory, rows may
/// be strided. Throws Error on another shape or dtype.
void fill_rope_table(const RopeConfig& rope, const device::TensorView& cos_sin);

}  // namespace weft::model
