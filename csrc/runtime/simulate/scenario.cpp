#include "runtime/simulate/scenario.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/error.h"

namespace weft::runtime::simulate {
namespace {

class Weather {
 public:
  Weather(const RuntimeConfig& config, const StreamConfig& stream)
      : config_(config),
        stream_(stream),
        dp_size_(config.enable_dp_attention ? config.dp_size : 1),
        rng_(stream.seed) {}

  std::vector<Intent> intents() {
    std::vector<Intent> all;
    while (static_cast<int64_t>(all.size()) < stream_.num_steps) {
      change();
      for (int64_t i = between(1, 16); i > 0 && static_cast<int64_t>(all.size()) < stream_.num_steps; --i) {
        all.push_back(intent());
      }
    }
    return all;
  }

 private:
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng_);
  }
  bool chance(double p) { return std::bernoulli_distribution(p)(rng_); }

  // Bits of DP ranks, each with chance p.
  uint64_t ranks(double p) {
    uint64_t bits = 0;
    for (int d = 0; d < dp_size_; ++d) bits |= uint64_t{chance(p)} << d;
    return bits;
  }

  void change() {
    const double arrivals[] = {0.0, 0.1, 0.5, 2.0};  // a DP rank and step
    arrivals_ = arrivals[between(0, 3)];
    const double shares[] = {0.0, 0.3, 0.9, 1.0};
    prefill_ = shares[between(1, 3)];
    decode_ = shares[between(0, 3)];
    mixed_ = chance(0.5) && stream_.mixed;
    long_prompts_ = chance(0.5);
    ahead_ = chance(0.7) ? 1.0 : 0.5;
    releases_ = chance(0.3) ? 0.3 : 0.02;
    if (!stream_.steady) return;
    // While nothing comes, all decode and graphs replay; but the first to come come at once.
    const double rates[] = {0.1, 0.4, 0.0, 0.0};
    arrivals_ = rates[between(0, std::exchange(begun_, true) ? 3 : 1)];
    prefill_ = decode_ = 1.0;
    ahead_ = 1.0;
    mixed_ = stream_.mixed;
    releases_ = 0.02;
  }

  Arrival arrival() {
    Arrival a;
    a.dp_rank = static_cast<int>(between(0, dp_size_ - 1));
    a.prompt_len = chance(0.15) ? 1 : between(1, long_prompts_ ? stream_.max_prompt : 8);
    a.max_new_tokens = chance(0.15) ? 1 : between(1, stream_.max_new_tokens);
    if (chance(0.1)) a.logprob_start = between(0, a.prompt_len);
    a.return_logprob = chance(0.2);
    return a;
  }

  Intent intent() {
    Intent intent;
    for (int64_t n = std::poisson_distribution<int64_t>(arrivals_ * dp_size_)(rng_); n > 0; --n) {
      intent.arrivals.push_back(arrival());
    }
    // Chunks that leave tails of a single token, and chunks that hold whole prompts.
    const double small = stream_.steady ? 0.0 : 0.3;
    intent.chunk = chance(small) ? between(1, 8) : stream_.max_prompt;
    intent.budget = chance(small) ? between(1, config_.max_tokens_per_step) : config_.max_tokens_per_step;
    intent.prefill = ranks(prefill_);
    intent.decode = ranks(decode_);
    intent.mixed = mixed_;
    while (chance(releases_)) intent.releases.push_back(static_cast<uint32_t>(between(0, 1 << 20)));
    intent.ahead = chance(ahead_) && stream_.overlap;
    if (chance(0.02)) intent.replace_rank = static_cast<int>(between(0, config_.tp_size - 1));
    return intent;
  }

  const RuntimeConfig& config_;
  const StreamConfig& stream_;
  const int dp_size_;
  std::mt19937_64 rng_;
  double arrivals_ = 0, prefill_ = 0, decode_ = 0, ahead_ = 0, releases_ = 0;
  bool mixed_ = false, long_prompts_ = false, begun_ = false;
};

std::string describe(const Intent& intent) {
  std::string text =
      fmt::format("  prefill {:x} decode {:x} chunk {} budget {}{}{}", intent.prefill, intent.decode,
                  intent.chunk, intent.budget, intent.ahead ? " ahead" : "", intent.mixed ? " mixed" : "");
  for (const Arrival& a : intent.arrivals) {
    text += fmt::format(" +{}:{}/{}", a.dp_rank, a.prompt_len, a.max_new_tokens);
    if (a.logprob_start >= 0) text += fmt::format("@{}", a.logprob_start);
  }
  for (const uint32_t release : intent.releases) text += fmt::format(" -{}", release);
  if (intent.replace_rank >= 0) text += fmt::format(" replace {}", intent.replace_rank);
  return text;
}

}  // namespace

std::string Scenario::describe() const {
  std::string sparse;
  for (const bool layer : model.sparse_layers) sparse += layer ? 's' : 'd';
  std::string buckets;
  for (const int64_t bucket : config.graph_batch_sizes) {
    buckets += fmt::format("{}{}", buckets.empty() ? "" : ",", bucket);
  }
  std::string text = fmt::format(
      "{} layers {}: tp {} dp {}{} ep {} a2a {} {} dense_tp {}{}{}{} threshold {} policy {} gate {} ({} "
      "costs) "
      "graphs "
      "[{}]{} tokens {} running {} context {} page {} kv {} chunk_rows {} stop {} seed {}\n",
      model.architecture_name, sparse, config.tp_size, config.dp_size,
      config.enable_dp_attention ? " dp-attention" : "", config.ep_size, config.moe_a2a_backend,
      config.deepep_mode, config.moe_dense_tp_size.value_or(0), config.enable_dp_lm_head ? " dp-lm-head" : "",
      config.enable_two_batch_overlap ? " tbo" : "", config.enable_layernorm_sp ? " layernorm-sp" : "",
      config.tbo_token_distribution_threshold, config.tbo_policy, config.tbo_gate,
      config.tbo_cost_table.tokens.size(), buckets, config.graph_padding ? "" : " exact",
      config.max_tokens_per_step, config.max_running_requests, config.context_length, config.page_size,
      config.max_total_tokens, config.dispatch_chunk_rows, stop_chance, seed);
  for (const Intent& intent : intents) text += simulate::describe(intent) + "\n";
  return text;
}

std::vector<Intent> random_intents(const RuntimeConfig& config, const StreamConfig& stream) {
  return Weather(config, stream).intents();
}

}  // namespace weft::runtime::simulate
