#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "plan/graph_buckets.h"
#include "plan/splitter.h"
#include "plan/step_plan.h"
#include "plan/trace.h"

namespace weft::plan {

/// Seeded configurations, rank states and models that the planner accepts.
class RandomPlan {
 public:
  explicit RandomPlan(uint32_t seed) : rng_(seed) {}

  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng_);
  }
  bool chance(double p) { return std::bernoulli_distribution(p)(rng_); }

  ParallelConfig parallel() {
    ParallelConfig p;
    p.tp_size = 1 << between(0, 3);
    if (chance(0.7)) {
      p.enable_dp_attention = true;
      while (p.dp_size * 2 <= p.tp_size && chance(0.7)) p.dp_size *= 2;
    }
    if (chance(0.6)) {
      p.a2a_backend = A2aBackend::kDeepEp;
      p.ep_size = p.tp_size;
      p.deepep_mode = static_cast<DeepEpMode>(between(0, 2));
    } else if (chance(0.5)) {
      p.ep_size = p.tp_size;
    }
    const int dense[] = {0, 1, p.tp_size};
    p.moe_dense_tp_size = dense[between(0, 2)];
    p.enable_dp_lm_head = p.enable_dp_attention && chance(0.5);
    // The only configurations that gather nothing, so that each rank chooses its own bucket.
    if (p.enable_dp_attention && p.a2a_backend == A2aBackend::kDeepEp && chance(0.4)) {
      p.moe_dense_tp_size = 1;
      p.enable_dp_lm_head = true;
    }
    p.enable_two_batch_overlap = chance(0.6);
    p.enable_layernorm_sp = p.attn_tp_size() > 1 && chance(0.5);
    return p;
  }

  PlanConfig config() {
    PlanConfig c;
    c.parallel = parallel();
    c.tbo_policy = chance(0.7) ? TboPolicy::kAny : TboPolicy::kSglang;
    if (chance(0.4)) c.tbo_cost_table = cost_table();
    c.graph_padding = chance(0.8);
    c.tokens_per_req = chance(0.3) ? between(2, 4) : 1;
    c.normal_chunk_rows = between(1, 64);
    c.logit_chunk_rows = between(1, 64);
    c.low_latency_rows = between(1, 16);
    if (chance(0.7)) {
      const CaptureFilter filter{.pool_size = between(1, 48),
                                 .two_batch_overlap = c.parallel.enable_two_batch_overlap,
                                 .gathered_buffer = c.parallel.require_gathered_buffer(),
                                 .attn_tp_size = c.parallel.attn_tp_size(),
                                 .tokens_per_req = c.tokens_per_req};
      c.graph_buckets = filter_capture_sizes(capture_batch_sizes(48, false, false), filter);
      for (int64_t& bucket : c.graph_buckets) bucket *= c.tokens_per_req;
      c.low_latency_rows =
          std::max(c.low_latency_rows, c.graph_buckets.back() / c.parallel.attn_tp_size()) + between(0, 40);
    }
    return c;
  }

  TboCostTable cost_table() {
    TboCostTable table;
    for (int64_t tokens = between(1, 8); tokens < 100; tokens += between(1, 60)) {
      table.tokens.push_back(tokens);
      for (auto* cost : {&table.compute_us, &table.dispatch_us, &table.combine_us}) {
        cost->push_back(static_cast<double>(between(0, 20) + tokens * between(0, 3)));
      }
    }
    return table;
  }

  /// One DP rank's batch, split as the runtime splits it.
  RankState state(ForwardMode mode, const PlanConfig& config) {
    RankState s;
    s.mode = mode;
    s.can_graph = chance(0.95) ? 1 : 0;
    std::vector<int64_t> extend_lens;
    if (mode == ForwardMode::kDecode) {
      s.num_seqs = s.num_tokens = between(1, 60);
    } else if (mode == ForwardMode::kTargetVerify) {
      s.tokens_per_req = chance(0.9) ? config.tokens_per_req : between(1, 4);
      s.num_seqs = between(1, 40);
      s.num_tokens = s.num_seqs * s.tokens_per_req;
    } else if (is_prefill(mode)) {
      s.num_seqs = between(1, 6);
      for (int64_t i = 0; i < s.num_seqs; ++i) extend_lens.push_back(between(1, 90));
      for (const int64_t len : extend_lens) s.num_tokens += len;
    }
    s.num_logit_rows = mode == ForwardMode::kDecode ? s.num_tokens : between(0, s.num_tokens);
    const SplitInput input{.mode = mode,
                           .num_tokens = s.num_tokens,
                           .extend_lens = extend_lens,
                           .prefix_lens = {},
                           .seq_lens = {},
                           .token_num_per_seq = s.tokens_per_req,
                           .attn_tp_size = config.parallel.attn_tp_size()};
    const auto halves = split(input, nullptr);
    s.can_split = halves && chance(0.9) ? 1 : 0;
    if (halves) {
      s.split_tokens[0] = halves->children[0].num_tokens;
      s.split_tokens[1] = halves->children[1].num_tokens;
    }
    return s;
  }

  std::vector<RankState> states(const PlanConfig& config) {
    // With speculative decoding a running request is verified; some ranks decode all the same.
    const ForwardMode running = config.tokens_per_req > 1 ? ForwardMode::kTargetVerify : ForwardMode::kDecode;
    const ForwardMode other = chance(0.2) ? ForwardMode::kTargetVerify : running;
    const ForwardMode modes[] = {running,
                                 other,
                                 ForwardMode::kIdle,
                                 ForwardMode::kExtend,
                                 ForwardMode::kMixed,
                                 ForwardMode::kPrebuilt,
                                 ForwardMode::kDecode,
                                 ForwardMode::kTargetVerify};
    // Steps of fixed width alone are the ones that replay graphs, so half of all are such.
    const int64_t last = chance(0.5) ? 2 : 7;
    std::vector<RankState> all;
    for (int d = 0; d < config.parallel.attn_dp_size(); ++d)
      all.push_back(state(modes[between(0, last)], config));
    return all;
  }

  ModelShape model() {
    ModelShape m;
    for (int64_t i = between(1, 5); i > 0; --i) m.sparse_pattern.push_back(chance(0.6));
    m.hidden = 64 * between(1, 4);
    m.vocab = between(100, 1000);
    m.dtype = chance(0.5) ? DType::kF32 : DType::kBF16;
    if (chance(0.3)) m.latent_width = between(1, 300);
    m.has_shared_experts = chance(0.5);
    return m;
  }

 private:
  std::mt19937 rng_;
};

}  // namespace weft::plan
