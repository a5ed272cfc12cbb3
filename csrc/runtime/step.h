#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace weft::runtime {

/// A new request.
struct Admission {
  int64_t rid = -1;  // any number >= 0 that no live request has
  int dp_rank = 0;
  std::vector<int32_t> input_ids;  // at least one
  int64_t max_new_tokens = 1;
  float temperature = 1.0F;  // 0: greedy
  float top_p = 1.0F;
  int32_t top_k = 0;  // 0: all
  float min_p = 0.0F;
  uint64_t seed = 0;
  std::vector<int32_t> stop_token_ids;
  int64_t logprob_start =
      -1;  // first prompt position whose log-probability is wanted; -1: none of the prompt
  bool return_logprob = false;  // of output tokens
  int32_t top_logprobs_num = 0;
};

/// What changes in one step. Lists are deltas, applied in this order: release, admissions, prefill, decode.
struct StepBatch {
  std::vector<Admission> admissions = {};
  std::vector<std::pair<int64_t, int64_t>> prefill = {};  // (rid, tokens of this chunk), in order
  std::vector<bool> decode = {};      // one a DP rank: decode its running requests; empty: none
  std::vector<int64_t> release = {};  // rids to drop
};

/// kFailed: the model left no finite probabilities, and the token is -1. The scheduler must release the
/// request.
enum class Finish : uint8_t { kRunning = 0, kStop = 1, kLength = 2, kFailed = 3 };

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0F;
};

struct OutputLogprob {
  int64_t rid = 0;
  float logprob = 0.0F;
  std::vector<TokenLogprob> top;  // falling
};

/// Log-probabilities of prompt tokens [first, first + size), each given what precedes it.
struct InputLogprobs {
  int64_t rid = 0;
  int64_t first = 0;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;
};

/// What a step left, in the order of its rows: DP rank by DP rank, prefills before decodes.
struct StepResult {
  std::vector<int64_t> rids;    // requests that got a token
  std::vector<int32_t> tokens;  // one a rid
  std::vector<Finish> finished;
  std::vector<OutputLogprob> output_logprobs;  // of requests that asked
  std::vector<InputLogprobs> input_logprobs;
};

}  // namespace weft::runtime
