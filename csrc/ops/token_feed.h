#pragma once

#include "ops/common.h"

namespace weft::ops {

struct ResolveIdsArgs {
  TensorView out;          // i32 [rows]
  TensorView ids;          // i32 [rows]; >= 0: a token; < 0: the last token of slot -(id + 1)
  TensorView last_tokens;  // i32 [slots]
};
/// The tokens to run: what the host knew, or what the step before sampled.
void resolve_token_ids(Stream& stream, const ResolveIdsArgs& args);

struct CommitTokensArgs {
  TensorView last_tokens;  // i32 [slots]; last_tokens[slots[r]] = tokens[r] where slots[r] >= 0
  TensorView targets;      // i32 [rows] out: wanted[r] if >= 0, the sampled token if -1, nothing (-1) if -2
  TensorView tokens;       // i32 [rows]: sampled
  TensorView slots;        // i32 [rows]; -1: keeps nothing
  TensorView wanted;       // i32 [rows]
  const int32_t* num_rows = nullptr;  // device [1]
};
/// Keeps sampled tokens as the next step's input, and says whose log-probabilities are wanted.
void commit_tokens(Stream& stream, const CommitTokensArgs& args);

struct FillPaddingArgs {
  TensorView x;                       // [rows, columns]
  const int32_t* num_rows = nullptr;  // device [1]: rows from here on are set
  uint8_t value = 0xff;               // 0xff is NaN in every float type
};
/// Sets padding rows byte by byte: proof that nothing reads them.
void fill_padding(Stream& stream, const FillPaddingArgs& args);

}  // namespace weft::ops
