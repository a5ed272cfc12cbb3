#pragma once

#include "ops/common.h"

namespace weft::ops {

struct EmbeddingArgs {
  TensorView out;           // [num_tokens, hidden], dtype of table
  TensorView ids;           // i32 [num_tokens]
  TensorView table;         // [shard_rows, hidden]
  int64_t vocab_begin = 0;  // first vocabulary id of this shard
  /// i32 [num_slots]: an id below 0 stands for the token of slot -(id + 1), which the step before sampled;
  /// undefined: for a padding row.
  TensorView last_tokens{};
};
/// out[t] = table[ids[t] - vocab_begin], or zeros if the id lies in another shard (a partial sum over ranks)
/// or is negative (a padding row, or a slot whose token could not be sampled). Throws (when run) if there is
/// no such slot.
void embedding(Stream& stream, const EmbeddingArgs& args);

struct GatherRowsArgs {
  TensorView out;      // [num_rows, columns]
  TensorView x;        // [rows, columns], same dtype
  TensorView indices;  // i32 [num_rows]; -1 writes zeros
};
/// out[i] = x[indices[i]].
void gather_rows(Stream& stream, const GatherRowsArgs& args);

}  // namespace weft::ops
