#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "plan/step_plan.h"
#include "plan/trace.h"

namespace weft::plan {
namespace {

constexpr ForwardMode kModes[] = {ForwardMode::kExtend, ForwardMode::kDecode,       ForwardMode::kMixed,
                                  ForwardMode::kIdle,   ForwardMode::kTargetVerify, ForwardMode::kPrebuilt};
constexpr int kDpRanks = 3;
constexpr int64_t kWidth = 2;  // draft tokens of a request

RankState state_of(ForwardMode mode, int64_t num_tokens) {
  RankState s;
  s.mode = mode;
  if (has_no_rows(mode)) return s;
  s.tokens_per_req = mode == ForwardMode::kTargetVerify ? kWidth : 1;
  s.num_tokens = num_tokens * s.tokens_per_req;
  s.num_seqs = num_tokens;
  s.num_logit_rows = num_tokens;
  s.split_tokens[0] = num_tokens / 2 * s.tokens_per_req;
  s.split_tokens[1] = s.num_tokens - s.split_tokens[0];
  return s;
}

struct Case {
  std::string name;
  PlanConfig config;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int attn_tp : {1, 2}) {
    for (const bool dispatched : {false, true}) {
      for (const bool overlap : {false, true}) {
        for (const int64_t graph_width : {int64_t{0}, int64_t{1}, kWidth}) {
          PlanConfig c;
          c.parallel.dp_size = kDpRanks;
          c.parallel.tp_size = kDpRanks * attn_tp;
          c.parallel.enable_dp_attention = true;
          c.parallel.enable_two_batch_overlap = overlap;
          if (dispatched) {
            c.parallel.a2a_backend = A2aBackend::kDeepEp;
            c.parallel.ep_size = c.parallel.tp_size;
            c.parallel.moe_dense_tp_size = 1;
            c.parallel.enable_dp_lm_head = true;
          }
          if (graph_width > 0) {
            c.tokens_per_req = graph_width;
            c.graph_buckets = {8 * graph_width, 16 * graph_width};
          }
          c.normal_chunk_rows = c.low_latency_rows = c.logit_chunk_rows = 64;
          all.push_back({fmt::format("attn_tp {}, dispatched {}, overlap {}, graphs of width {}", attn_tp,
                                     dispatched, overlap, graph_width),
                         c});
        }
      }
    }
  }
  return all;
}

// What a rank calls, whatever the number of rows.
using Call = std::tuple<Collective, Group, int, int>;
std::vector<Call> calls_of(const std::vector<CollectiveRecord>& trace) {
  std::vector<Call> calls;
  for (const CollectiveRecord& r : trace) {
    if (r.group == Group::kTp) calls.emplace_back(r.op, r.group, r.micro_batch, r.layer);
  }
  return calls;
}

std::vector<std::string> of_all_ranks(const std::vector<CollectiveRecord>& trace) {
  std::vector<std::string> lines;
  for (const CollectiveRecord& r : trace) {
    if (r.group == Group::kTp) lines.push_back(r.describe());
  }
  return lines;
}

ModelShape model() {
  return {.sparse_pattern = {false, true, true},
          .hidden = 64,
          .vocab = 100,
          .dtype = DType::kBF16,
          .has_shared_experts = true};
}

// Every rank of `plan` executes one sequence; returns it.
std::vector<Call> expect_one_sequence(const StepPlan& plan, const PlanConfig& config) {
  const auto first = step_trace(plan, config, model(), 0);
  for (int rank = 0; rank < config.parallel.tp_size; ++rank) {
    const auto trace = step_trace(plan, config, model(), rank);
    EXPECT_EQ(of_all_ranks(trace), of_all_ranks(first)) << "rank " << rank;
    EXPECT_EQ(trace, step_trace(plan, config, model(), rank - config.parallel.attn_tp_rank(rank)))
        << "rank " << rank << " and the first of its attention group";
  }
  return calls_of(first);
}

TEST(ModeMixTest, EveryMixUnderPolicyAnyIsOneSequenceThatDependsOnTheScheduleAlone) {
  int64_t unlike_overlaps = 0;
  for (const auto& [name, config] : cases()) {
    SCOPED_TRACE(name);
    std::map<std::tuple<ForwardMode, DispatchMode, size_t>, std::vector<Call>> sequences;
    for (const ForwardMode a : kModes) {
      for (const ForwardMode b : kModes) {
        for (const ForwardMode c : kModes) {
          SCOPED_TRACE(
              fmt::format("{} {} {}", forward_mode_name(a), forward_mode_name(b), forward_mode_name(c)));
          const std::vector<RankState> states{state_of(a, 5), state_of(b, 4), state_of(c, 7)};
          const StepPlan plan = make_step_plan(states, config);
          ASSERT_EQ(plan.run, !(has_no_rows(a) && has_no_rows(b) && has_no_rows(c)));
          const std::vector<Call> calls = expect_one_sequence(plan, config);
          if (!plan.run) continue;
          ASSERT_FALSE(calls.empty());
          const bool prefill = is_prefill(a) || is_prefill(b) || is_prefill(c);
          EXPECT_EQ(plan.schedule, prefill ? ForwardMode::kExtend : ForwardMode::kDecode);
          EXPECT_EQ(plan.tbo, config.parallel.enable_two_batch_overlap) << plan.no_tbo_reason;
          const std::set<ForwardMode> unlike{a, b, c};
          unlike_overlaps += plan.tbo && unlike.size() == kDpRanks ? 1 : 0;
          const auto key = std::tuple(plan.schedule, plan.dispatch, plan.micro_batches.size());
          const auto [known, is_new] = sequences.emplace(key, calls);
          if (!is_new) {
            EXPECT_EQ(known->second, calls) << "modes differ only inside compute stages";
          }
          if (HasFailure()) return;
        }
      }
    }
    EXPECT_EQ(sequences.size(), 2U) << "EXTEND's and DECODE's";
  }
  EXPECT_GT(unlike_overlaps, 100);
}

}  // namespace
}  // namespace weft::plan
