#include "runtime/pipeline.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/error.h"
#include "runtime/rank_threads.h"

namespace weft::runtime {
namespace {

std::vector<TimelineSpan> make_timeline(const std::vector<std::vector<device::OpSpan>>& spans) {
  std::vector<TimelineSpan> timeline;
  for (size_t rank = 0; rank < spans.size(); ++rank) {
    for (const device::OpSpan& span : spans[rank]) {
      timeline.push_back({.rank = static_cast<int>(rank),
                          .stream = span.stream,
                          .name = std::string(span.name),
                          .start_us = span.start_us,
                          .end_us = span.end_us,
                          .micro_batch = span.tag});
    }
  }
  std::stable_sort(timeline.begin(), timeline.end(),
                   [](const TimelineSpan& a, const TimelineSpan& b) { return a.start_us < b.start_us; });
  const double begin = timeline.empty() ? 0.0 : timeline.front().start_us;
  for (TimelineSpan& span : timeline) {
    span.start_us -= begin;
    span.end_us -= begin;
  }
  return timeline;
}

}  // namespace

Pipeline::Pipeline(const PipelineConfig& config, WorkerFactory make_worker,
                   std::function<void(const std::string&)> abort)
    : Pipeline(config, std::make_unique<RankThreads>(
                           RankThreadsConfig{.num_ranks = config.plan.parallel.tp_size,
                                             .attn_tp_size = config.plan.parallel.attn_tp_size(),
                                             .timeout = config.timeout},
                           std::move(make_worker), std::move(abort))) {}

Pipeline::Pipeline(PipelineConfig config, std::unique_ptr<StepRunner> runner)
    : config_(std::move(config)),
      config_hash_(config_.plan.hash()),
      requests_(config_.plan.parallel.attn_dp_size(), config_.limits),
      runner_(std::move(runner)) {}

std::shared_ptr<Step> Pipeline::new_step() {
  const auto attn_dp_size = static_cast<size_t>(config_.plan.parallel.attn_dp_size());
  std::shared_ptr<Step> step;
  if (spare_.empty()) {
    step = std::make_shared<Step>();
    step->inputs.resize(attn_dp_size);
    step->outputs.resize(attn_dp_size);
  } else {
    step = std::move(spare_.back());
    spare_.pop_back();
  }
  step->num_collected = 0;
  step->traced = false;
  return step;
}

void Pipeline::plan_step(Step& step) {
  step.states.clear();
  for (const RankBatch& batch : step.batches) {
    // The plan fixes the collectives, and each rank compares what it ran with them; so the hash of the plan
    // before stands for the collectives before.
    step.states.push_back(make_rank_state(batch, {.step_id = step.id,
                                                  .config_hash = config_hash_,
                                                  .trace_hash = last_plan_hash_,
                                                  .overlap = config_.plan.parallel.enable_two_batch_overlap,
                                                  .split_threshold = config_.split_threshold,
                                                  .attn_tp_size = config_.plan.parallel.attn_tp_size()}));
  }
  step.plan = plan::make_step_plan(step.states, config_.plan);
  last_plan_hash_ = step.plan.hash();
  for (size_t d = 0; d < step.batches.size(); ++d) {
    const RequestTable& table = requests_.table(static_cast<int>(d));
    exec::ForwardInput& input = step.inputs[d];
    fill_forward_input(step.batches[d], table, step.plan.micro_batches[0].num_tokens[d], input);
    if (config_.list_unused_pages) input.unused_pages = table.pages().free_pages();
    if (config_.edit_input) config_.edit_input(static_cast<int>(d), input);
  }
}

uint64_t Pipeline::submit(StepBatch batch) {
  const std::lock_guard lock(mutex_);
  runner_->check();
  WEFT_CHECK(in_flight_.size() < kMaxTickets, "submit: steps {} and {} are in flight; wait for step {} first",
             in_flight_.front()->id, in_flight_.back()->id, in_flight_.front()->id);
  std::shared_ptr<Step> step = new_step();
  requests_.schedule(std::move(batch), step->batches);
  const bool has_rows = std::any_of(step->batches.begin(), step->batches.end(),
                                    [](const RankBatch& rank_batch) { return rank_batch.num_tokens > 0; });
  if (!has_rows) {
    spare_.push_back(std::move(step));
    return 0;
  }
  step->id = next_id_++;
  try {
    plan_step(*step);
  } catch (const std::exception& e) {
    // The rows are scheduled and will never run.
    runner_->fail(-1, fmt::format("step {}: {}", step->id, e.what()));
    throw;
  }
  step->traced = std::exchange(trace_next_, false);
  if (step->traced) step->spans.resize(static_cast<size_t>(config_.plan.parallel.tp_size));
  in_flight_.push_back(step);
  runner_->push(step);
  return step->id;
}

StepResult Pipeline::wait(uint64_t ticket) {
  std::shared_ptr<Step> step;
  {
    const std::lock_guard lock(mutex_);
    runner_->check();
    WEFT_CHECK(!in_flight_.empty(), "wait({}): no step is in flight", ticket);
    WEFT_CHECK(ticket == in_flight_.front()->id, "wait({}): the oldest step in flight is {}", ticket,
               in_flight_.front()->id);
    step = in_flight_.front();
  }
  runner_->wait(*step);
  const std::lock_guard lock(mutex_);
  WEFT_CHECK(!in_flight_.empty() && step == in_flight_.front(), "wait({}): another thread waited for it",
             ticket);
  in_flight_.pop_front();
  StepResult result;
  for (size_t d = 0; d < step->batches.size(); ++d) {
    requests_.retire(static_cast<int>(d), step->batches[d], step->outputs[d], result);
  }
  if (step->traced) timeline_ = make_timeline(step->spans);
  spare_.push_back(std::move(step));
  return result;
}

void Pipeline::trace_next_step() {
  const std::lock_guard lock(mutex_);
  trace_next_ = true;
}

std::vector<TimelineSpan> Pipeline::timeline() const {
  const std::lock_guard lock(mutex_);
  return timeline_;
}

Stats Pipeline::stats() const {
  Stats stats;
  stats.ranks = runner_->counters();
  const std::lock_guard lock(mutex_);
  stats.requests = requests_.counts();
  for (int d = 0; d < config_.plan.parallel.attn_dp_size(); ++d) {
    stats.pages_total += requests_.table(d).pages().num_pages();
    stats.pages_used += requests_.table(d).pages().used();
  }
  return stats;
}

}  // namespace weft::runtime
