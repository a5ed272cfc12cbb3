#pragma once

#include "ops/common.h"

namespace weft::ops {

struct LocalizeArgs {
  TensorView out;  // i32 [rows, top_k]; may alias ids
  TensorView ids;  // i32 [rows, top_k]: global expert ids, -1 on padding
  int32_t first_expert = 0;
  int32_t num_local_experts = 0;
};
/// out = ids - first_expert for this rank's experts, else -1.
void localize_experts(Stream& stream, const LocalizeArgs& args);

}  // namespace weft::ops
