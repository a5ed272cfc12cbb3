#include "runtime/simulate/simulated_ranks.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace weft::runtime::simulate {

SimulatedRanks::SimulatedRanks(RanksConfig config)
    : config_(std::move(config)),
      shape_(exec::model_shape(config_.exec, config_.model)),
      rng_(config_.seed),
      world_(config_.exec.plan.parallel.tp_size),
      ranks_(static_cast<size_t>(config_.exec.plan.parallel.tp_size)),
      audit_(config_.exec) {
  for (size_t rank = 0; rank < ranks_.size(); ++rank) make_rank(static_cast<int>(rank));
}

SimulatedRanks::~SimulatedRanks() {
  for (Rank& rank : ranks_) {
    if (rank.worker != nullptr) rank.worker->drain();
  }
}

void SimulatedRanks::make_rank(int rank) {
  Rank& made = ranks_[static_cast<size_t>(rank)];
  made.worker.reset();  // before its device
  device::NullOptions options{.name = fmt::format("null:{}", rank)};
  if (config_.hooks.device_options) config_.hooks.device_options(rank, options);
  made.device = device::make_null_device(options);
  world_.set_device(rank, *made.device);

  const auto& parallel = config_.exec.plan.parallel;
  const comm::Communicator* newest = nullptr;
  exec::RankPeers peers;
  peers.communicator = [&](plan::Group group, int channel) {
    const int size = group == plan::Group::kTp ? parallel.tp_size : parallel.attn_tp_size();
    std::vector<int> members(static_cast<size_t>(size));
    std::iota(members.begin(), members.end(), rank / size * size);
    auto communicator =
        world_.make_communicator(rank, std::string(plan::group_name(group)), members, channel);
    newest = communicator.get();
    if (!config_.hooks.wrap_communicator) return communicator;
    return config_.hooks.wrap_communicator(rank, group, channel, std::move(communicator));
  };
  // A rank makes a dispatcher right after the communicator that it is for.
  peers.wrap_dispatcher = [&](std::unique_ptr<comm::Dispatcher> inner) {
    return world_.wrap_dispatcher(std::move(inner), *newest);
  };
  made.worker = std::make_unique<exec::RankWorker>(rank, config_.exec, config_.model, *made.device, peers);
}

void SimulatedRanks::replace_rank(int rank) {
  if (!steps_.empty()) return;
  ranks_[static_cast<size_t>(rank)].worker->drain();
  make_rank(rank);
}

void SimulatedRanks::push(const std::shared_ptr<Step>& step) {
  if (config_.hooks.edit_step) config_.hooks.edit_step(*step);
  check_hashes();
  audit_.pushed(*step);
  last_step_ = step->id;
  steps_.push_back(step);
  const auto& parallel = config_.exec.plan.parallel;
  std::vector<std::vector<plan::CollectiveRecord>> predicted;
  predicted.reserve(static_cast<size_t>(parallel.attn_dp_size()));
  for (int d = 0; d < parallel.attn_dp_size(); ++d) {
    predicted.push_back(plan::step_trace(step->plan, config_.exec.plan, shape_, d * parallel.attn_tp_size()));
  }
  std::vector<int> order(ranks_.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), rng_);
  for (const int rank : order) {
    enqueue(rank, *step, predicted[static_cast<size_t>(parallel.attn_dp_rank(rank))]);
  }
  if (config_.hooks.on_step) config_.hooks.on_step(*step);
}

void SimulatedRanks::enqueue(int rank, const Step& step,
                             const std::vector<plan::CollectiveRecord>& predicted) {
  Rank& own = ranks_[static_cast<size_t>(rank)];
  const plan::StepPlan& plan = plan_of(rank, step);
  own.plan_hash = plan.hash();
  own.device->clear_enqueued();
  const auto dp_rank = static_cast<size_t>(config_.exec.plan.parallel.attn_dp_rank(rank));
  own.worker->enqueue(plan, step.inputs[dp_rank]);
  ++rank_steps_;
  // A rank that left the agreement is for its peers to find.
  if (config_.hooks.check_trace && &plan == &step.plan) check_trace(rank, step, predicted);
}

const plan::StepPlan& SimulatedRanks::plan_of(int rank, const Step& step) {
  const Hooks& hooks = config_.hooks;
  if (!hooks.edit_states && !hooks.edit_plan) return step.plan;
  auto states = step.states;
  plan::StepPlan plan = step.plan;
  bool changed = false;
  if (hooks.edit_states && hooks.edit_states(rank, states)) {
    plan = plan::make_step_plan(states, config_.exec.plan);
    if (hooks.own_plan) hooks.own_plan(rank, plan, step.plan);
    changed = true;
  }
  if (hooks.edit_plan && hooks.edit_plan(rank, plan)) changed = true;
  if (!changed) return step.plan;
  auto& plans = ranks_[static_cast<size_t>(rank)].own_plans;
  if (plans.size() == 2) plans.pop_front();  // of a step that was collected
  return plans.emplace_back(std::move(plan));
}

void SimulatedRanks::check_trace(int rank, const Step& step,
                                 const std::vector<plan::CollectiveRecord>& predicted) const {
  const auto calls = world_.enqueued(rank);
  for (size_t i = 0; i < std::max(calls.size(), predicted.size()); ++i) {
    if (i < calls.size() && i < predicted.size()) {
      const comm::NullCall& call = *calls[i];
      const plan::CollectiveRecord& record = predicted[i];
      // Outside of the stages ops carry no micro-batch.
      const bool same_batch = call.micro_batch < 0 || call.micro_batch == record.micro_batch;
      if (call.op == record.op && call.dtype == record.dtype && call.count == record.count && same_batch &&
          world_.group_name(call) == plan::group_name(record.group)) {
        continue;
      }
    }
    WEFT_THROW("step {}: rank {} leaves the predicted trace at collective {}: predicted {}, enqueued {}",
               step.id, rank, i, i < predicted.size() ? predicted[i].describe() : "nothing",
               i < calls.size() ? calls[i]->describe() : "nothing");
  }
}

// What RankState::trace_hash carries from node to node.
void SimulatedRanks::check_hashes() const {
  for (size_t rank = 1; rank < ranks_.size(); ++rank) {
    WEFT_CHECK(ranks_[rank].plan_hash == ranks_[0].plan_hash,
               "step {}: rank {} made the plan {:016x}, rank 0 made {:016x}", last_step_, rank,
               ranks_[rank].plan_hash, ranks_[0].plan_hash);
  }
}

void SimulatedRanks::wait(const Step& step) {
  world_.run();
  const auto& parallel = config_.exec.plan.parallel;
  auto& outputs = steps_.front()->outputs;
  uint64_t trace_hash = 0;
  for (int rank = 0; rank < parallel.tp_size; ++rank) {
    exec::StepDone done = ranks_[static_cast<size_t>(rank)].worker->collect();
    if (rank == 0) trace_hash = done.trace_hash;
    WEFT_CHECK(done.trace_hash == trace_hash, "step {}: rank {} ran collectives {:016x}, rank 0 ran {:016x}",
               step.id, rank, done.trace_hash, trace_hash);
    if (parallel.attn_tp_rank(rank) != 0) continue;
    const auto d = static_cast<size_t>(parallel.attn_dp_rank(rank));
    outputs[d] = std::move(done.output);
    sample(step.inputs[d], outputs[d]);
  }
  check_hashes();
  steps_.pop_front();
  audit_.retired(step);
}

void SimulatedRanks::sample(const exec::ForwardInput& input, exec::ForwardOutput& output) {
  std::uniform_int_distribution<int32_t> token(kStopToken + 1,
                                               static_cast<int32_t>(config_.model.vocab_size) - 1);
  std::bernoulli_distribution stops(config_.stop_chance);
  for (size_t i = 0; i < output.tokens.size(); ++i) {
    const bool sampled = input.logit_rows[i].slot >= 0;
    output.tokens[i] = !sampled ? -1 : stops(rng_) ? kStopToken : token(rng_);
  }
}

void SimulatedRanks::fail(int /*rank*/, const std::string& message) noexcept { failure_ = message; }

void SimulatedRanks::check() const { WEFT_CHECK(failure_.empty(), "{}", failure_); }

std::vector<exec::RankCounters> SimulatedRanks::counters() const {
  std::vector<exec::RankCounters> all;
  for (const Rank& rank : ranks_) all.push_back(rank.worker->counters());
  return all;
}

}  // namespace weft::runtime::simulate
