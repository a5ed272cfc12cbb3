#pragma once

#include "ops/common.h"

namespace weft::ops {

struct ScatterBlocksArgs {
  TensorView out;      // i32 [blocks, 4], contiguous, starts at a multiple of 16 bytes
  TensorView x;        // i32 [num_changed, 4], the same
  TensorView indices;  // i32 [num_changed], all different
};
/// out[indices[i], :] = x[i, :]: writes blocks of 16 bytes here and there.
///
/// x and indices may lie in a host buffer of the device, which the host leaves alone until the op is done: so
/// a step's inputs are uploaded at once, and none but those that changed.
void scatter_blocks(Stream& stream, const ScatterBlocksArgs& args);

}  // namespace weft::ops
