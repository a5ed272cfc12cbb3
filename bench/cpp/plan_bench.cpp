/// Times the planner and the splitter for bench/plan_step.py: `bench_plan SECONDS` checks every step and
/// every batch, then prints one JSON object a row: what was timed, its size, and microseconds a call of each
/// sample.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "plan/graph_buckets.h"
#include "plan/splitter.h"
#include "plan/step_plan.h"

namespace weft {
namespace {

using namespace plan;  // NOLINT(google-build-using-namespace): all of this file is about it
using Clock = std::chrono::steady_clock;

constexpr double kSampleSeconds = 1e-3;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// So that the compiler cannot drop a call whose result nobody reads.
uint64_t sink = 0;

/// Microseconds a call in each sample of about a millisecond.
template <class Function>
std::vector<double> time(double seconds, const Function& function) {
  int64_t calls = 1;
  for (;; calls *= 2) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) function();
    if (seconds_since(start) >= kSampleSeconds) break;
  }
  std::vector<double> samples;
  for (const auto begin = Clock::now(); samples.size() < 5 || seconds_since(begin) < seconds;) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) function();
    samples.push_back(1e6 * seconds_since(start) / static_cast<double>(calls));
  }
  return samples;
}

template <class Function>
void report(std::string_view what, std::string_view kind, int64_t size, double seconds,
            const Function& function) {
  std::string us;
  for (const double sample : time(seconds, function)) {
    us += fmt::format("{}{:.4f}", us.empty() ? "" : ", ", sample);
  }
  std::cout << fmt::format(R"({{"what": "{}", "kind": "{}", "size": {}, "us": [{}]}})", what, kind, size, us)
            << std::endl;
}

// ---- steps ----

PlanConfig make_config(int num_ranks, bool gathered) {
  PlanConfig config;
  config.parallel.tp_size = config.parallel.dp_size = num_ranks;
  config.parallel.enable_dp_attention = true;
  config.parallel.enable_two_batch_overlap = true;
  if (!gathered) {
    config.parallel.a2a_backend = A2aBackend::kDeepEp;
    config.parallel.ep_size = num_ranks;
    config.parallel.moe_dense_tp_size = 1;
    config.parallel.enable_dp_lm_head = true;
  }
  config.graph_buckets = filter_capture_sizes(
      capture_batch_sizes(512, false, false),
      {.pool_size = 512, .two_batch_overlap = true, .gathered_buffer = gathered, .attn_tp_size = 1});
  config.tbo_cost_table = {.tokens = {1, 8, 32, 128, 512, 2048, 8192},
                           .compute_us = {300, 310, 340, 500, 1300, 5000, 20000},
                           .dispatch_us = {20, 30, 60, 180, 700, 2800, 11000},
                           .combine_us = {20, 30, 60, 180, 700, 2800, 11000}};
  config.normal_chunk_rows = 1024;
  config.low_latency_rows = 512;
  config.logit_chunk_rows = 512;
  return config;
}

RankState make_state(ForwardMode mode, int64_t num_tokens, uint64_t config_hash) {
  RankState state;
  state.config_hash = config_hash;
  state.mode = mode;
  state.num_tokens = num_tokens;
  state.num_seqs = state.num_logit_rows = mode == ForwardMode::kDecode ? num_tokens : num_tokens / 64;
  state.split_tokens[0] = num_tokens / 2;
  state.split_tokens[1] = num_tokens - num_tokens / 2;
  return state;
}

void check_plan(const StepPlan& step, const std::vector<RankState>& states, const PlanConfig& config,
                bool replays) {
  WEFT_CHECK(step.tbo && step.micro_batches.size() == 2, "the step is not overlapped: {}",
             step.no_tbo_reason);
  for (size_t d = 0; d < states.size(); ++d) {
    int64_t tokens = 0;
    for (const MicroBatchPlan& batch : step.micro_batches) {
      WEFT_CHECK(batch.rows[d] >= batch.num_tokens[d], "rank {} has fewer rows than tokens", d);
      tokens += batch.num_tokens[d];
    }
    WEFT_CHECK(tokens == states[d].num_tokens, "rank {} runs {} of {} tokens", d, tokens,
               states[d].num_tokens);
    WEFT_CHECK((step.graph_bucket[d] > 0) == replays, "rank {} replays {} rows", d, step.graph_bucket[d]);
  }
  WEFT_CHECK(step.hash() == make_step_plan(states, config).hash(), "two plans of the same states differ");
}

void bench_plans(int num_ranks, double seconds) {
  std::mt19937 rng(static_cast<uint32_t>(num_ranks));
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  for (const bool gathered : {true, false}) {
    const PlanConfig config = make_config(num_ranks, gathered);
    const uint64_t config_hash = config.hash();
    std::vector<RankState> decode, unlike;
    for (int d = 0; d < num_ranks; ++d) {
      decode.push_back(make_state(ForwardMode::kDecode, between(200, 512), config_hash));
      const bool extends = d % 4 == 0;
      unlike.push_back(make_state(extends ? ForwardMode::kMixed : ForwardMode::kDecode,
                                  extends ? between(4096, 8192) : between(200, 512), config_hash));
    }
    const std::string kind = gathered ? "gathered" : "dispatched";
    check_plan(make_step_plan(decode, config), decode, config, true);
    report("plan", kind + ", graphs", num_ranks, seconds,
           [&] { sink += make_step_plan(decode, config).logit_rows.size(); });
    check_plan(make_step_plan(unlike, config), unlike, config, false);
    report("plan", kind + ", unlike modes", num_ranks, seconds,
           [&] { sink += make_step_plan(unlike, config).logit_rows.size(); });
    const StepPlan step = make_step_plan(unlike, config);
    report("hash of the plan", kind, num_ranks, seconds, [&] { sink += step.hash(); });
  }
}

// ---- splits ----

void check_split(const SplitInput& input) {
  const Split parts = split(input, nullptr).value();
  std::vector<int64_t> tokens(input.extend_lens.size());
  int64_t token = 0;
  for (const SplitChild& child : parts.children) {
    WEFT_CHECK(child.token_begin == token, "a child begins at token {}, not {}", child.token_begin, token);
    token = child.token_end;
    for (size_t i = 0; i < child.extend_lens.size(); ++i) {
      tokens[static_cast<size_t>(child.seq_begin) + i] += child.extend_lens[i];
    }
  }
  WEFT_CHECK(token == input.num_tokens, "children have {} of {} tokens", token, input.num_tokens);
  WEFT_CHECK(std::equal(tokens.begin(), tokens.end(), input.extend_lens.begin(), input.extend_lens.end()),
             "children do not make the parent's sequences");
}

void bench_splits(int64_t num_seqs, double seconds) {
  std::mt19937 rng(1);
  std::vector<int64_t> lens, prefix_lens, seq_lens;
  for (int64_t i = 0; i < num_seqs; ++i) {
    lens.push_back(std::uniform_int_distribution<int64_t>(1, 4096)(rng));
    prefix_lens.push_back(std::uniform_int_distribution<int64_t>(0, 4096)(rng));
    seq_lens.push_back(lens.back() + prefix_lens.back());
  }
  SplitInput input;
  input.mode = ForwardMode::kExtend;
  input.num_tokens = std::accumulate(lens.begin(), lens.end(), int64_t{0});
  input.extend_lens = lens;
  input.prefix_lens = prefix_lens;
  input.seq_lens = seq_lens;
  const auto run = [&](std::string_view kind) {
    report("split", kind, num_seqs, seconds, [&] { sink += split(input, nullptr)->children.size(); });
  };
  check_split(input);
  run("EXTEND");
  input.threshold = 0.5;  // any unevenness: the two-chunk split
  check_split(input);
  WEFT_CHECK(split(input, nullptr)->two_chunk, "no sequence is cut");
  run("EXTEND, two-chunk");
  input.num_micro_batches = 4;
  check_split(input);
  run("EXTEND, 4 parts");
  input = SplitInput{};
  input.mode = ForwardMode::kDecode;
  input.num_tokens = num_seqs;
  input.seq_lens = seq_lens;
  run("DECODE");
}

int run(double seconds) {
  for (const int num_ranks : {8, 64, 320}) bench_plans(num_ranks, seconds);
  bench_splits(1024, seconds);
  WEFT_CHECK(sink != 0, "nothing was timed");
  return 0;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  try {
    return weft::run(argc > 1 ? std::atof(argv[1]) : 0.3);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
