#pragma once

#include "ops/common.h"

namespace weft::ops {

/// Sampling parameters of one row, in device memory.
struct SamplingRow {
  float temperature = 1.0F;  // 0 means greedy
  float top_p = 1.0F;
  float min_p = 0.0F;
  int32_t top_k = 0;  // 0: all
  uint64_t seed = 0;
  int64_t position = 0;  // of the token to be sampled; (seed, position) alone fix the random number
};

struct SampleArgs {
  TensorView tokens;   // i32 [rows] out
  TensorView logits;   // f32 [rows, vocab]
  const SamplingRow* params = nullptr;  // device [rows]
  const int32_t* num_rows = nullptr;    // device i32 [1]; rows beyond it are not touched
};
/// Draws a token a row: temperature, then top-k, then top-p, then min-p on what is left, then the inverse of
/// the cumulative distribution in order of falling probability (ties: lower id). Greedy takes the lowest id
/// among the largest.
void sample(Stream& stream, const SampleArgs& args);

struct LogprobArgs {
  TensorView logprobs;      // f32 [rows] out: of `targets`
  TensorView top_ids;       // i32 [rows, max_top] out, or undefined
  TensorView top_logprobs;  // f32 [rows, max_top] out, or undefined
  TensorView logits;        // f32 [rows, vocab]
  TensorView targets;       // i32 [rows]; -1 skips the row's logprob
  const int32_t* num_top = nullptr;   // device i32 [rows]: how many of max_top are wanted; null: none
  const int32_t* num_rows = nullptr;  // device i32 [1]
};
/// log_softmax(logits) at the target and at the num_top largest (falling; ties: lower id).
void logprobs(Stream& stream, const LogprobArgs& args);

}  // namespace weft::ops
