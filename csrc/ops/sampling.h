#pragma once

#include "ops/common.h"

namespace weft::ops {

/// Sampling parameters of one row, in device memory.
struct SamplingRow {
  float temperature = 1.0F;  // 0 means greedy
  float top_p = 1.0F;        // (0, 1]
  float min_p = 0.0F;        // [0, 1]
  int32_t top_k = 0;         // 0: all
  uint64_t seed = 0;
  int64_t position = 0;  // of the token to be sampled; (seed, position) alone fix the random number
};

struct SampleArgs {
  TensorView tokens;                    // i32 [rows] out
  TensorView logits;                    // f32 [rows, vocab]; -inf forbids a token
  const SamplingRow* params = nullptr;  // device [rows]
  const int32_t* num_rows = nullptr;    // device i32 [1]; rows beyond it are not touched; null: all rows
  // What else becomes of the tokens: all of these, or none.
  TensorView last_tokens{};  // i32 [num_slots]; last_tokens[slots[r]] = tokens[r] where slots[r] >= 0
  TensorView slots{};        // i32 [rows]; -1: the token is not kept
  TensorView wanted{};       // i32 [rows]; for targets
  TensorView targets{};      // i32 [rows] out: wanted[r] if >= 0, the token if -1, nothing (-1) if -2
};
/// Draws a token a row, keeps it as the next step's input, and says whose log-probability is wanted.
///
/// Greedy (temperature 0) takes the lowest id among the largest logits. Else, with p = softmax(logits /
/// temperature) and tokens in order of falling p (ties: lower id first):
///   top_k  keeps the first top_k tokens;
///   top_p  keeps the shortest prefix of them whose share of their sum is >= top_p;
///   min_p  keeps those of the prefix with p >= min_p * the largest p;
///   draw   the first token at which the cumulative sum of what is kept reaches u times the whole, where
///          u = philox_uniform(seed, position) of ops/philox.h.
/// So a row's token depends on its logits and parameters alone. A row with a NaN, or without any finite
/// largest logit, gets the token -1: the model failed for this request, others go on.
void sample(Stream& stream, const SampleArgs& args);

struct LogprobArgs {
  TensorView logprobs;                // f32 [rows] out: of `targets`
  TensorView top_ids;                 // i32 [rows, max_top] out, or undefined
  TensorView top_logprobs;            // f32 [rows, max_top] out, or undefined
  TensorView logits;                  // f32 [rows, vocab]
  TensorView targets;                 // i32 [rows]; -1 skips the row's logprob
  const int32_t* num_top = nullptr;   // device i32 [rows]: how many of max_top are wanted; null: none
  const int32_t* num_rows = nullptr;  // device i32 [1]; rows beyond it are not touched; null: all rows
};
/// log_softmax(logits) at the target and at the num_top largest (falling; ties: lower id). What is skipped or
/// not wanted is not written. Throws (when run) if a target or num_top is out of range.
void logprobs(Stream& stream, const LogprobArgs& args);

}  // namespace weft::ops
