#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "runtime/config.h"

namespace weft::runtime::simulate {

/// A request to come.
struct Arrival {
  int dp_rank = 0;
  int64_t prompt_len = 1;
  int64_t max_new_tokens = 1;
  int64_t logprob_start = -1;
  bool return_logprob = false;
};

/// What the scheduler wants of a step. What is not possible (a prompt without room, a rank that has nothing
/// to do) is left out, so that any list of intents makes a legal run, and still does when some are taken
/// away.
struct Intent {
  std::vector<Arrival> arrivals;
  uint64_t prefill = 0;            // DP ranks (bits) that run prompts
  uint64_t decode = 0;             // DP ranks (bits) that run their running requests
  bool mixed = true;               // a DP rank that runs prompts decodes as well
  int64_t chunk = 1;               // most tokens of one prompt
  int64_t budget = 1;              // most prompt tokens of a DP rank
  std::vector<uint32_t> releases;  // live requests, by number modulo their count
  bool ahead = false;              // the step after this one is submitted before this one is waited for
  int replace_rank = -1;           // a rank that starts anew before the step
};

/// A run of the simulator: all that decides it.
struct Scenario {
  RuntimeConfig config;
  model::ModelConfig model;
  double stop_chance = 0.05;
  uint64_t seed = 0;  // of sampled tokens, prompts' tokens and the order of ranks
  std::vector<Intent> intents;

  /// One line for the configuration, one for each intent.
  [[nodiscard]] std::string describe() const;
};

struct StreamConfig {
  int64_t num_steps = 64;
  int64_t max_prompt = 64;
  int64_t max_new_tokens = 24;
  uint64_t seed = 0;
  double stop_chance = 0.05;  // that a sampled token ends its request
  bool mixed = true;          // a DP rank may run prompts and decode in one step
  bool overlap = true;        // a step may be submitted while the one before it runs
  bool steady = false;        // every DP rank runs whatever it has; else some hold back
};
/// A stream of requests in changing weather: bursts of prompts, long decoding, idle ranks, mixed steps,
/// prompts of one token, chunk tails, aborts.
[[nodiscard]] std::vector<Intent> random_intents(const RuntimeConfig& config, const StreamConfig& stream);

}  // namespace weft::runtime::simulate
