#pragma once

#include <cstdint>

#include "kernels/common/launch.cuh"
#include "ops/common.h"

/// The keys and values of planned prompts, expanded from latents in pages to what attention over packed keys
/// reads.
namespace weft::kernels {

/// packed[t, :] = the cache's row of packed token t: tokens of the planned sequences one after the other,
/// where the plan says. Rows of no planned sequence become 0. Rows are multiples of 16 bytes.
struct PackLatentsArgs {
  device::TensorView packed;  // [tokens, width]
  device::TensorView cache;   // [slots, width], same dtype
  ops::SequenceBatch batch;
  const int32_t* plan = nullptr;
  int64_t num_rows = 0;  // of the step, as in the plan
};
void pack_latents(const CudaContext& context, const PackLatentsArgs& args);

/// keys[t, h, :] = nope[t, h, :], then rope[t, :]. Same dtype; rows are multiples of 16 bytes.
struct JoinKeysArgs {
  device::TensorView keys;  // [tokens, heads, nope + rope]
  device::TensorView nope;  // [tokens, heads, nope]
  device::TensorView rope;  // [tokens, rope]
};
void join_keys(const CudaContext& context, const JoinKeysArgs& args);

}  // namespace weft::kernels
