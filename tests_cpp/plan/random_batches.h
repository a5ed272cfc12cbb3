#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <numeric>
#include <vector>

#include "base/math.h"
#include "plan/random_scenario.h"
#include "plan/splitter.h"
#include "runtime/rank_batch.h"
#include "runtime/simulate/simulated_ranks.h"

namespace weft::runtime::simulate {

/// Steps of every forward mode, also of those that the scheduler does not make yet: TARGET_VERIFY of any
/// width and PREBUILT; with votes against graphs and splits. The ranks are simulated; the batches come from
/// real request tables.
class RandomBatches {
 public:
  explicit RandomBatches(uint64_t seed) : random_(seed) {
    Scenario scenario = random_.scenario(0);
    scenario.config.graph_batch_sizes.clear();
    config_ = {
        .exec = resolve(scenario.config, scenario.model), .model = scenario.model, .seed = seed, .hooks = {}};
    threshold_ = scenario.config.tbo_token_distribution_threshold;
    widen();
    for (int d = 0; d < config_.exec.plan.parallel.attn_dp_size(); ++d) {
      tables_.emplace_back(RequestLimits{.max_requests = config_.exec.max_seqs,
                                         .max_tokens = config_.exec.max_tokens,
                                         .max_context = config_.exec.max_context,
                                         .page_size = config_.exec.page_size,
                                         .num_pages = config_.exec.num_pages,
                                         .vocab_size = config_.model.vocab_size});
    }
  }

  /// Runs steps; returns rank-steps. Throws Error at the first thing that is wrong.
  int64_t run(int64_t num_steps, const Hooks& hooks = {}) {
    config_.hooks = hooks;
    SimulatedRanks ranks(config_);
    for (int64_t i = 0; i < num_steps; ++i) {
      push(ranks);
      while (in_flight_.size() > (random_.chance(0.6) ? 1U : 0U)) wait(ranks);
      if (in_flight_.empty() && random_.chance(0.02)) {
        ranks.replace_rank(static_cast<int>(random_.between(0, config_.exec.plan.parallel.tp_size - 1)));
      }
    }
    while (!in_flight_.empty()) wait(ranks);
    return ranks.rank_steps();
  }

 private:
  // Graphs of a verify width, if the buckets allow it.
  void widen() {
    plan::PlanConfig& c = config_.exec.plan;
    c.tokens_per_req = random_.chance(0.6) ? random_.between(2, 4) : 1;
    if (!random_.chance(0.7)) return;
    const plan::CaptureFilter filter{.pool_size = config_.exec.max_seqs,
                                     .two_batch_overlap = c.parallel.enable_two_batch_overlap,
                                     .gathered_buffer = c.parallel.require_gathered_buffer(),
                                     .attn_tp_size = c.parallel.attn_tp_size(),
                                     .tokens_per_req = c.tokens_per_req};
    std::vector<int64_t> sizes = plan::cpu_capture_batch_sizes(config_.exec.max_seqs);
    sizes.push_back(int64_t{2} * c.parallel.attn_tp_size());
    c.graph_buckets = plan::filter_capture_sizes(sizes, filter);
    for (int64_t& bucket : c.graph_buckets) bucket *= c.tokens_per_req;
    // A width that does not divide attn_tp_size leaves sizes that no graph can have.
    const int64_t multiple =
        std::lcm(c.row_alignment(), c.tokens_per_req) * (filter.two_batch_overlap ? 2 : 1);
    auto& buckets = c.graph_buckets;
    buckets.erase(
        std::remove_if(buckets.begin(), buckets.end(), [&](int64_t b) { return b % multiple != 0; }),
        buckets.end());
    if (buckets.empty()) return;
    c.low_latency_rows =
        std::max(c.low_latency_rows, ceil_div<int64_t>(buckets.back(), c.parallel.attn_tp_size()));
    c.logit_chunk_rows = std::max(c.logit_chunk_rows, buckets.back());
  }

  static int64_t left(const Request& request) { return request.prompt_len() - request.num_scheduled; }

  // Up to `room` tokens of prompts, in chunks that `length` gives.
  template <class Length>
  void add_prompts(RequestTable& table, RankBatch& batch, int64_t room, Length&& length) {
    for (int64_t i = random_.between(1, 6); i > 0; --i) {
      std::vector<int32_t> slots;
      for (int32_t slot = 0; slot < table.limits().max_requests; ++slot) {
        const bool taken = std::any_of(batch.seqs.begin(), batch.seqs.end(),
                                       [&](const SequenceRows& rows) { return rows.slot == slot; });
        const Request& request = table.at(slot);
        if (request.state == Request::State::kLive && !taken && left(request) > 0) slots.push_back(slot);
      }
      if (slots.empty()) return;
      const int32_t slot =
          slots[static_cast<size_t>(random_.between(0, static_cast<int64_t>(slots.size()) - 1))];
      const int64_t count = length(left(table.at(slot)));
      if (count <= 0 || batch.num_tokens + count > room) return;
      add_prefill(batch, table, slot, count);
    }
  }

  void admit(RequestTable& table) {
    for (int64_t i = random_.between(0, 2); i > 0 && table.free_slots() > 0; --i) {
      Admission a;
      a.rid = next_rid_++;
      a.max_new_tokens = random_.between(1, std::max<int64_t>(1, config_.exec.max_context / 4));
      const int64_t most = config_.exec.max_context - a.max_new_tokens;
      a.input_ids.assign(static_cast<size_t>(random_.between(1, std::max<int64_t>(1, most))), 1);
      if (random_.chance(0.2)) a.logprob_start = 0;
      if (table.pages_for(a) > table.pages().available()) return;
      table.admit(std::move(a));
    }
  }

  /// Fills `batch`; returns its mode. A width that is not asked for stays 1.
  plan::ForwardMode fill(RequestTable& table, RankBatch& batch, int64_t width, bool prefills) {
    using plan::ForwardMode;
    batch.clear();
    admit(table);
    const int64_t room = config_.exec.max_tokens;
    const auto any_length = [&](int64_t most) { return random_.between(1, most); };
    const int64_t kind = random_.between(0, prefills ? 5 : 3);
    if (kind == 0) return random_.chance(0.3) ? ForwardMode::kPrebuilt : ForwardMode::kIdle;
    if (kind == 1 || kind == 2) {
      add_prompts(table, batch, room, [&](int64_t most) { return most >= width ? width : 0; });
      return batch.seqs.empty() ? ForwardMode::kIdle : ForwardMode::kTargetVerify;
    }
    const auto num_running = static_cast<int64_t>(table.running().size());
    if (kind >= 4) add_prompts(table, batch, room - num_running, any_length);
    if (kind == 3 || kind == 5) add_decodes(batch, table);
    return batch.mode();
  }

  plan::RankState state_of(const RankBatch& batch, plan::ForwardMode mode, int64_t width) {
    const plan::PlanConfig& c = config_.exec.plan;
    plan::RankState state = make_rank_state(batch, {.step_id = next_step_,
                                                    .config_hash = c.hash(),
                                                    .trace_hash = last_plan_hash_,
                                                    .overlap = c.parallel.enable_two_batch_overlap,
                                                    .split_threshold = threshold_,
                                                    .attn_tp_size = c.parallel.attn_tp_size()});
    state.mode = mode;
    if (mode == plan::ForwardMode::kTargetVerify) {
      state.tokens_per_req = width;
      const auto halves = plan::split({.mode = mode,
                                       .num_tokens = state.num_tokens,
                                       .extend_lens = {},
                                       .prefix_lens = {},
                                       .seq_lens = {},
                                       .token_num_per_seq = width,
                                       .attn_tp_size = c.parallel.attn_tp_size()},
                                      nullptr);
      state.can_split = halves ? 1 : 0;
      state.split_tokens[0] = halves ? halves->children[0].num_tokens : state.num_tokens;
      state.split_tokens[1] = state.num_tokens - state.split_tokens[0];
    }
    if (random_.chance(0.05)) state.can_graph = 0;
    if (random_.chance(0.1)) state.can_split = 0;
    return state;
  }

  void push(SimulatedRanks& ranks) {
    auto step = std::make_shared<Step>();
    step->id = next_step_;
    const bool prefills = random_.chance(0.5);
    for (RequestTable& table : tables_) {
      const bool own_width = random_.chance(0.05);
      const int64_t width = own_width ? random_.between(1, 5) : config_.exec.plan.tokens_per_req;
      step->batches.emplace_back();
      const plan::ForwardMode mode = fill(table, step->batches.back(), width, prefills);
      step->states.push_back(state_of(step->batches.back(), mode, width));
    }
    step->plan = plan::make_step_plan(step->states, config_.exec.plan);
    if (!step->plan.run) return;
    ++next_step_;
    last_plan_hash_ = step->plan.hash();
    step->inputs.resize(tables_.size());
    step->outputs.resize(tables_.size());
    for (size_t d = 0; d < tables_.size(); ++d) {
      fill_forward_input(step->batches[d], tables_[d], step->plan.micro_batches[0].num_tokens[d],
                         step->inputs[d]);
    }
    ranks.push(step);
    in_flight_.push_back(std::move(step));
  }

  void wait(SimulatedRanks& ranks) {
    const std::shared_ptr<Step> step = in_flight_.front();
    in_flight_.pop_front();
    ranks.wait(*step);
    for (size_t d = 0; d < tables_.size(); ++d) {
      RequestTable& table = tables_[d];
      for (const SequenceRows& rows : step->batches[d].seqs) {
        const Request& request = table.at(rows.slot);
        const bool over =
            left(request) <= 0 && (request.num_sampled >= request.max_new_tokens || random_.chance(0.1));
        if (request.state == Request::State::kLive && over) table.drop(rows.slot);
        table.retire(rows.slot);
      }
    }
  }

  RandomScenario random_;
  RanksConfig config_;
  double threshold_ = 0.48;
  std::vector<RequestTable> tables_;  // by DP rank
  std::deque<std::shared_ptr<Step>> in_flight_;
  uint64_t next_step_ = 1;
  uint64_t last_plan_hash_ = 0;
  int64_t next_rid_ = 0;
};

}  // namespace weft::runtime::simulate
