#include "runtime/simulate/simulation.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "runtime/runtime.h"

namespace weft::runtime::simulate {

Simulation::Simulation(const Scenario& scenario, Hooks hooks)
    : scenario_(scenario),
      exec_(resolve(scenario.config, scenario.model)),
      dp_size_(exec_.plan.parallel.attn_dp_size()),
      rng_(scenario.seed),
      running_(static_cast<size_t>(dp_size_)),
      waiting_(static_cast<size_t>(dp_size_)) {
  auto ranks = std::make_unique<SimulatedRanks>(RanksConfig{.exec = exec_,
                                                            .model = scenario.model,
                                                            .seed = scenario.seed + 1,
                                                            .stop_chance = scenario.stop_chance,
                                                            .hooks = std::move(hooks)});
  ranks_ = ranks.get();
  pipeline_ =
      std::make_unique<Pipeline>(pipeline_config(scenario.config, exec_, scenario.model), std::move(ranks));
}

Totals Simulation::run() {
  for (const Intent& intent : scenario_.intents) {
    if (intent.replace_rank >= 0 && intent.replace_rank < exec_.plan.parallel.tp_size) {
      ranks_->replace_rank(intent.replace_rank);
    }
    submit(intent);
    const size_t keep = intent.ahead ? Pipeline::kMaxTickets - 1 : 0;
    while (in_flight_.size() > keep) wait();
  }
  release_all();
  totals_.rank_steps = ranks_->rank_steps();
  totals_.meetings = ranks_->num_meetings();
  totals_.requests = next_rid_;
  totals_.discarded_rows = num_discarded_;
  return totals_;
}

int64_t Simulation::pages(int64_t tokens) const { return ceil_div(tokens, exec_.page_size); }

std::vector<int64_t> Simulation::live() const {
  std::vector<int64_t> rids;
  for (const int64_t rid : order_) {
    if (!requests_.at(rid).over) rids.push_back(rid);
  }
  return rids;
}

void Simulation::submit(const Intent& intent) {
  StepBatch batch;
  Submitted step;
  choose_releases(intent, batch);
  admit(intent, batch);
  choose_rows(intent, batch, step);
  step.ticket = pipeline_->submit(std::move(batch));
  WEFT_CHECK((step.ticket == 0) == step.rows.empty(), "a step with {} requests got ticket {}",
             step.rows.size(), step.ticket);
  if (step.ticket == 0) return;
  ++totals_.steps;
  in_flight_.push_back(std::move(step));
}

void Simulation::choose_releases(const Intent& intent, StepBatch& batch) {
  for (const uint32_t number : intent.releases) {
    const std::vector<int64_t> rids = live();
    if (rids.empty()) return;
    const int64_t rid = rids[number % rids.size()];
    batch.release.push_back(rid);
    ++num_released_;
    finish(rid, requests_.at(rid));
  }
}

// The request is over: what a step in flight samples for it will be discarded.
void Simulation::finish(int64_t rid, Request& request) {
  request.over = true;
  auto& running = running_[static_cast<size_t>(request.arrival.dp_rank)];
  running.erase(std::remove(running.begin(), running.end(), rid), running.end());
  for (const Submitted& step : in_flight_) {
    for (const auto& [other, samples] : step.rows) num_discarded_ += other == rid && samples ? 1 : 0;
  }
  forget_if_gone(rid);
}

void Simulation::forget_if_gone(int64_t rid) {
  const auto found = requests_.find(rid);
  if (!found->second.over || found->second.in_flight > 0) return;
  requests_.erase(found);
  order_.erase(std::find(order_.begin(), order_.end(), rid));
}

void Simulation::admit(const Intent& intent, StepBatch& batch) {
  for (const Arrival& arrival : intent.arrivals) {
    if (arrival.dp_rank >= dp_size_ || arrival.prompt_len + arrival.max_new_tokens > exec_.max_context)
      continue;
    if (pages(arrival.prompt_len + arrival.max_new_tokens) > exec_.num_pages) continue;
    waiting_[static_cast<size_t>(arrival.dp_rank)].push_back(arrival);
  }
  for (size_t d = 0; d < waiting_.size(); ++d) {
    int64_t slots = exec_.max_seqs;
    int64_t free_pages = exec_.num_pages;
    for (const auto& [rid, request] : requests_) {
      if (request.arrival.dp_rank != static_cast<int>(d)) continue;
      --slots;
      free_pages -= pages(request.arrival.prompt_len + request.arrival.max_new_tokens);
    }
    while (!waiting_[d].empty()) {
      const Arrival arrival = waiting_[d].front();
      free_pages -= pages(arrival.prompt_len + arrival.max_new_tokens);
      if (--slots < 0 || free_pages < 0) break;
      waiting_[d].pop_front();
      const int64_t rid = next_rid_++;
      batch.admissions.push_back(admission(rid, arrival));
      requests_[rid] = {.arrival = arrival};
      order_.push_back(rid);
    }
  }
}

Admission Simulation::admission(int64_t rid, const Arrival& arrival) {
  Admission a;
  a.rid = rid;
  a.dp_rank = arrival.dp_rank;
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(scenario_.model.vocab_size) - 1);
  for (int64_t i = 0; i < arrival.prompt_len; ++i) a.input_ids.push_back(token(rng_));
  a.max_new_tokens = arrival.max_new_tokens;
  a.seed = rng_();
  a.stop_token_ids = {SimulatedRanks::kStopToken};
  a.logprob_start = arrival.logprob_start;
  a.return_logprob = arrival.return_logprob || arrival.logprob_start >= 0;
  return a;
}

void Simulation::choose_rows(const Intent& intent, StepBatch& batch, Submitted& step) {
  const auto wants = [](uint64_t bits, size_t d) { return (bits >> d & 1) != 0; };
  std::vector<int64_t> budget(static_cast<size_t>(dp_size_), 0);
  std::vector<std::vector<int64_t>> decodes(static_cast<size_t>(dp_size_));
  for (size_t d = 0; d < budget.size(); ++d) {
    if (wants(intent.decode, d)) {
      for (const int64_t rid : running_[d]) {
        const Request& request = requests_.at(rid);
        if (request.sampled < request.arrival.max_new_tokens) decodes[d].push_back(rid);
      }
    }
    const int64_t room = exec_.max_tokens - static_cast<int64_t>(decodes[d].size());
    if (wants(intent.prefill, d)) budget[d] = std::min(intent.budget, room);
  }
  std::vector<bool> prefills(static_cast<size_t>(dp_size_), false);
  for (const int64_t rid : order_) {
    Request& request = requests_.at(rid);
    const auto d = static_cast<size_t>(request.arrival.dp_rank);
    const int64_t left = request.arrival.prompt_len - request.scheduled;
    const int64_t count = std::min({left, intent.chunk, budget[d]});
    if (request.over || count <= 0) continue;
    budget[d] -= count;
    prefills[d] = true;
    batch.prefill.emplace_back(rid, count);
    request.scheduled += count;
    const bool samples = count == left;
    if (samples) {
      ++request.sampled;
      running_[d].push_back(rid);
    }
    ++request.in_flight;
    step.rows.emplace_back(rid, samples);
  }
  for (size_t d = 0; d < decodes.size(); ++d) {
    const bool decode = wants(intent.decode, d) && (intent.mixed || !prefills[d]);
    batch.decode.push_back(decode);
    if (!decode) continue;
    for (const int64_t rid : decodes[d]) {
      Request& request = requests_.at(rid);
      ++request.scheduled;
      ++request.sampled;
      ++request.in_flight;
      step.rows.emplace_back(rid, true);
    }
  }
}

void Simulation::wait() {
  const Submitted step = std::move(in_flight_.front());
  in_flight_.pop_front();
  const StepResult result = pipeline_->wait(step.ticket);
  check_result(step, result);
  for (const auto& row : step.rows) {
    const int64_t rid = row.first;
    --requests_.at(rid).in_flight;
    forget_if_gone(rid);
  }
  check_books();
}

// Whoever sampled and was not over by then got one token, and nobody else.
void Simulation::check_result(const Submitted& step, const StepResult& result) {
  std::unordered_map<int64_t, bool> expected;
  for (const auto& [rid, samples] : step.rows) {
    if (samples && !requests_.at(rid).over) expected.emplace(rid, true);
  }
  WEFT_CHECK(result.rids.size() == expected.size(), "step {}: {} requests got a token, {} should have",
             step.ticket, result.rids.size(), expected.size());
  for (size_t i = 0; i < result.rids.size(); ++i) {
    const int64_t rid = result.rids[i];
    WEFT_CHECK(expected.erase(rid) == 1, "step {}: request {} got a token that it had no row for",
               step.ticket, rid);
    Request& request = requests_.at(rid);
    ++request.outputs;
    Finish finish_reason = Finish::kRunning;
    if (result.tokens[i] == SimulatedRanks::kStopToken) {
      finish_reason = Finish::kStop;
    } else if (request.outputs == request.arrival.max_new_tokens) {
      finish_reason = Finish::kLength;
    }
    WEFT_CHECK(result.finished[i] == finish_reason, "step {}: request {} finished with {}, not {}",
               step.ticket, rid, static_cast<int>(result.finished[i]), static_cast<int>(finish_reason));
    if (finish_reason == Finish::kRunning) continue;
    ++num_finished_;
    finish(rid, request);
  }
}

void Simulation::check_books() const {
  const Stats stats = pipeline_->stats();
  int64_t used = 0;
  for (const auto& [rid, request] : requests_) used += pages(request.scheduled);
  // The rows that a step in flight will discard have not been counted yet.
  int64_t to_come = 0;
  for (const Submitted& step : in_flight_) {
    for (const auto& [rid, samples] : step.rows) to_come += samples && requests_.at(rid).over ? 1 : 0;
  }
  const RequestCounts& counts = stats.requests;
  WEFT_CHECK(stats.pages_used == used && counts.admitted == next_rid_ && counts.finished == num_finished_ &&
                 counts.released == num_released_ && counts.discarded_rows == num_discarded_ - to_come,
             "the runtime uses {} pages, has admitted {} requests, finished {}, released {} and discarded {} "
             "rows; the "
             "scheduler counts {}, {}, {}, {} and {}",
             stats.pages_used, counts.admitted, counts.finished, counts.released, counts.discarded_rows, used,
             next_rid_, num_finished_, num_released_, num_discarded_ - to_come);
}

void Simulation::release_all() {
  while (!in_flight_.empty()) wait();
  StepBatch batch;
  for (const int64_t rid : live()) {
    batch.release.push_back(rid);
    ++num_released_;
    finish(rid, requests_.at(rid));
  }
  WEFT_CHECK(pipeline_->submit(std::move(batch)) == 0, "a step without rows got a ticket");
  check_books();
  WEFT_CHECK(requests_.empty(), "{} requests are left at the end", requests_.size());
}

}  // namespace weft::runtime::simulate
