#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "runtime/simulate/simulated_ranks.h"
#include "support/forwarding_communicator.h"

namespace weft::runtime::simulate {

/// One thing that goes wrong on one rank of a simulation, once.
struct Mutant {
  int rank = 0;
  uint64_t step = 0;  // plan and input mutants: in this step, or the first one after it that can be changed
  int64_t site = 0;   // order and event mutants: the call, wait or record with this index on the rank
  uint64_t seed = 0;  // of the choices within
  bool applied = false;  // something was changed
};

/// How a mutant changes a simulation. `mutant` outlives the run.
struct MutantKind {
  std::string name;
  std::function<void(Mutant& mutant, Hooks& hooks)> install;
  /// Event mutants: how many sites a run had; `device` is that of the mutant's rank.
  std::function<int64_t(const device::NullDevice& device)> num_sites = nullptr;
};

/// What a rank receives of another one's vote.
inline std::vector<MutantKind> vote_mutants() {
  using plan::RankState;
  const auto kind = [](std::string name, std::function<bool(RankState&)> change) {
    return MutantKind{std::move(name), [change = std::move(change)](Mutant& mutant, Hooks& hooks) {
                        hooks.edit_states = [&mutant, change](int rank, std::vector<RankState>& states) {
                          if (mutant.applied || rank != mutant.rank || states[0].step_id < mutant.step)
                            return false;
                          RankState& state = states[mutant.seed % states.size()];
                          return state.num_tokens > 0 && change(state);
                        };
                        // That it arrived differently is no mistake yet; a plan that differs is.
                        hooks.own_plan = [&mutant](int, const plan::StepPlan& own,
                                                   const plan::StepPlan& agreed) {
                          mutant.applied = mutant.applied || own.hash() != agreed.hash();
                        };
                      }};
  };
  return {
      kind("vote: can_graph", [](RankState& s) { return (s.can_graph ^= 1, true); }),
      kind("vote: can_split",
           [](RankState& s) {
             if (s.can_split == 0 && s.split_tokens[0] + s.split_tokens[1] != s.num_tokens) return false;
             s.can_split ^= 1;
             return true;
           }),
      kind("vote: mode",
           [](RankState& s) {
             s.mode = s.mode == plan::ForwardMode::kDecode ? plan::ForwardMode::kMixed
                                                           : plan::ForwardMode::kExtend;
             return true;
           }),
      kind("count: tokens",
           [](RankState& s) {
             if (plan::has_fixed_width(s.mode)) ++s.num_seqs;
             ++s.num_tokens;
             ++s.split_tokens[0];
             return true;
           }),
      kind("count: tokens of the halves",
           [](RankState& s) {
             if (s.split_tokens[0] == 0) return false;
             --s.split_tokens[0];
             ++s.split_tokens[1];
             return true;
           }),
      kind("count: logit rows",
           [](RankState& s) {
             if (s.num_logit_rows == 0) return false;
             --s.num_logit_rows;
             return true;
           }),
  };
}

/// A plan that one rank made differently, whatever the reason.
inline std::vector<MutantKind> plan_mutants() {
  using plan::StepPlan;
  const auto kind = [](std::string name, std::function<bool(StepPlan&, uint64_t)> change) {
    return MutantKind{std::move(name), [change = std::move(change)](Mutant& mutant, Hooks& hooks) {
                        hooks.edit_plan = [&mutant, change](int rank, StepPlan& plan) {
                          if (mutant.applied || rank != mutant.rank || plan.step_id < mutant.step)
                            return false;
                          mutant.applied = change(plan, mutant.seed);
                          return mutant.applied;
                        };
                      }};
  };
  return {
      kind("count: rows",
           [](StepPlan& p, uint64_t seed) {
             auto& batch = p.micro_batches[seed % p.micro_batches.size()];
             batch.rows[seed / 2 % batch.rows.size()] += static_cast<int64_t>(batch.rows.size()) * 64;
             return true;
           }),
      kind("count: gathered rows",
           [](StepPlan& p, uint64_t seed) {
             auto& batch = p.micro_batches[seed % p.micro_batches.size()];
             if (batch.gathered_rows == 0) return false;
             --batch.gathered_rows;
             return true;
           }),
      kind("count: start",
           [](StepPlan& p, uint64_t seed) {
             auto& batch = p.micro_batches[seed % p.micro_batches.size()];
             ++batch.start[seed / 2 % batch.start.size()];
             return true;
           }),
      kind("count: expert chunks",
           [](StepPlan& p, uint64_t seed) {
             ++p.micro_batches[seed % p.micro_batches.size()].expert_chunks;
             return p.dispatch != plan::DispatchMode::kNone;
           }),
      kind("count: logit passes",
           [](StepPlan& p, uint64_t) {
             ++p.logit_chunks;
             return true;
           }),
      kind("count: logit rows as run",
           [](StepPlan& p, uint64_t seed) {
             auto& rows = p.logit_rows[seed % p.logit_rows.size()];
             if (rows == 0) return false;
             --rows;
             return true;
           }),
      kind("vote: graph",
           [](StepPlan& p, uint64_t seed) {
             auto& bucket = p.graph_bucket[seed % p.graph_bucket.size()];
             if (bucket == 0) return false;
             bucket = 0;
             return true;
           }),
      kind("vote: dispatch mode",
           [](StepPlan& p, uint64_t) {
             if (p.dispatch == plan::DispatchMode::kNone) return false;
             p.dispatch = p.dispatch == plan::DispatchMode::kNormal ? plan::DispatchMode::kLowLatency
                                                                    : plan::DispatchMode::kNormal;
             return true;
           }),
      kind("vote: layernorm_sp",
           [](StepPlan& p, uint64_t) {
             p.layernorm_sp = !p.layernorm_sp;
             return !p.layernorm_sp;  // was on
           }),
      kind("order: schedule",
           [](StepPlan& p, uint64_t) {
             if (!p.tbo) return false;
             p.schedule = p.schedule == plan::ForwardMode::kExtend ? plan::ForwardMode::kDecode
                                                                   : plan::ForwardMode::kExtend;
             return true;
           }),
      kind("order: micro-batches",
           [](StepPlan& p, uint64_t) {
             if (!p.tbo || p.micro_batches[0].rows == p.micro_batches[1].rows) return false;
             std::swap(p.micro_batches[0], p.micro_batches[1]);
             return true;
           }),
  };
}

/// An input that does not hold the batch.
inline std::vector<MutantKind> input_mutants() {
  const auto kind = [](std::string name, std::function<bool(Step&, exec::ForwardInput&, uint64_t)> change) {
    return MutantKind{std::move(name), [change = std::move(change)](Mutant& mutant, Hooks& hooks) {
                        hooks.edit_step = [&mutant, change](Step& step) {
                          if (mutant.applied || step.id < mutant.step) return;
                          auto& input = step.inputs[mutant.seed % step.inputs.size()];
                          mutant.applied = change(step, input, mutant.seed / 2);
                        };
                      }};
  };
  const auto batch_of = [](exec::ForwardInput& input, uint64_t seed) -> exec::MicroBatchInput* {
    auto& batch = input.micro_batches[input.micro_batches[1].ids.empty() ? 0 : seed % 2];
    return batch.ids.empty() ? nullptr : &batch;
  };
  const auto row_kind = [=](std::string name, std::vector<int32_t> exec::MicroBatchInput::*rows) {
    return kind(std::move(name), [=](Step&, exec::ForwardInput& input, uint64_t seed) {
      auto* batch = batch_of(input, seed);
      if (batch == nullptr) return false;
      auto& values = batch->*rows;
      ++values[seed / 2 % values.size()];
      return true;
    });
  };
  return {
      row_kind("input: position", &exec::MicroBatchInput::positions),
      row_kind("input: KV slot", &exec::MicroBatchInput::kv_slots),
      row_kind("input: length in the cache", &exec::MicroBatchInput::kv_len),
      row_kind("input: page", &exec::MicroBatchInput::pages),
      kind("input: a row twice",
           [=](Step&, exec::ForwardInput& input, uint64_t seed) {
             auto* batch = batch_of(input, seed);
             if (batch == nullptr || batch->ids.size() < 2) return false;
             const size_t row = seed / 2 % (batch->ids.size() - 1);
             batch->positions[row + 1] = batch->positions[row];
             batch->kv_slots[row + 1] = batch->kv_slots[row];
             return batch->positions[row] >= 0;
           }),
      kind("input: logit row",
           [](Step&, exec::ForwardInput& input, uint64_t seed) {
             if (input.logit_rows.empty()) return false;
             ++input.logit_rows[seed % input.logit_rows.size()].row;
             return true;
           }),
      kind("input: a lost logit row",
           [](Step&, exec::ForwardInput& input, uint64_t) {
             if (input.logit_rows.empty()) return false;
             input.logit_rows.pop_back();
             return true;
           }),
      kind("padding: twice the rows",
           [](Step& step, exec::ForwardInput&, uint64_t seed) {
             auto& batch = step.plan.micro_batches[0];
             const size_t d = seed % batch.rows.size();
             if (batch.rows[d] == 0 || batch.gathered_rows > 0) return false;
             batch.rows[d] *= 2;
             return true;
           }),
      kind("padding: no bound",
           [](Step& step, exec::ForwardInput&, uint64_t) {
             auto& batch = step.plan.micro_batches[0];
             if (batch.padding != plan::PaddingMode::kMaxLen) return false;
             if (batch.gathered_rows == 0) return false;
             for (auto& rows : batch.rows) rows *= 4;
             batch.gathered_rows *= 4;
             return true;
           }),
      kind("capacity: too few expert chunks",
           [](Step& step, exec::ForwardInput&, uint64_t) {
             auto& batch = step.plan.micro_batches[0];
             if (batch.expert_chunks == 1) return false;
             --batch.expert_chunks;
             return true;
           }),
  };
}

/// Gives the first page of a new request one that the step before uses, which is in flight if every step is
/// submitted ahead.
inline MutantKind early_page_mutant() {
  return {"page: reused in flight", [](Mutant& mutant, Hooks& hooks) {
            const auto before = std::make_shared<std::vector<std::vector<int32_t>>>();
            hooks.edit_step = [&mutant, before](Step& step) {
              for (size_t d = 0; d < before->size() && step.id >= mutant.step; ++d) {
                auto& input = step.inputs[d].micro_batches[0];
                const auto& seqs = step.batches[d].seqs;
                const bool is_new =
                    !seqs.empty() && seqs[0].start == 0 && !input.ids.empty() && input.pages[0] > 0;
                if (mutant.applied || !is_new || (*before)[d].empty()) continue;
                const int32_t page_size = input.kv_slots[0] / input.pages[0];
                const int32_t page = (*before)[d][0];
                for (size_t row = 0; row < static_cast<size_t>(input.cu_q[1]); ++row) {
                  if (input.positions[row] >= page_size) break;
                  input.kv_slots[row] = page * page_size + input.positions[row];
                }
                input.pages[0] = page;
                mutant.applied = true;
              }
              before->clear();
              for (const auto& input : step.inputs) before->push_back(input.micro_batches[0].pages);
            };
          }};
}

/// A communicator whose call number `site` on its rank goes wrong.
class MutantCommunicator final : public test::ForwardingCommunicator {
 public:
  enum class Kind { kSkip, kRepeat, kSwap, kShorten };

  /// State of a rank's communicators: which call is next.
  struct Calls {
    int64_t next = 0;
    std::function<void()> held;  // a call that comes after the next one
    std::string held_call;       // what peers see of it
  };

  MutantCommunicator(std::unique_ptr<comm::Communicator> inner, int channel, Kind kind, Mutant& mutant,
                     std::shared_ptr<Calls> calls)
      : ForwardingCommunicator(std::move(inner)),
        channel_(channel),
        kind_(kind),
        mutant_(mutant),
        calls_(std::move(calls)) {}

  void all_reduce(Stream& stream, const TensorView& out, const TensorView& in) override {
    call(seen("all_reduce", stream, in), [=, this, &stream](bool shorter) {
      const int64_t rows = in.shape[0] - (shorter ? 1 : 0);
      inner_->all_reduce(stream, out.rows(0, rows), in.rows(0, rows));
    });
  }
  void reduce_scatter(Stream& stream, const TensorView& out, const TensorView& in) override {
    call(seen("reduce_scatter", stream, in), [=, this, &stream](bool shorter) {
      const int64_t rows = out.shape[0] - (shorter ? 1 : 0);
      inner_->reduce_scatter(stream, out.rows(0, rows), in.rows(0, rows * size()));
    });
  }
  void reduce_scatter_v(Stream& stream, const TensorView& out, const TensorView& in,
                        std::span<const int64_t> rows) override {
    call_v(seen("reduce_scatter_v", stream, in), rows,
           [=, this, &stream](std::span<const int64_t> counts, int64_t own, int64_t all) {
             inner_->reduce_scatter_v(stream, out.rows(0, own), in.rows(0, all), counts);
           });
  }
  void all_gather(Stream& stream, const TensorView& out, const TensorView& in) override {
    call(seen("all_gather", stream, out), [=, this, &stream](bool shorter) {
      const int64_t rows = in.shape[0] - (shorter ? 1 : 0);
      inner_->all_gather(stream, out.rows(0, rows * size()), in.rows(0, rows));
    });
  }
  void all_gather_v(Stream& stream, const TensorView& out, const TensorView& in,
                    std::span<const int64_t> rows) override {
    call_v(seen("all_gather_v", stream, out), rows,
           [=, this, &stream](std::span<const int64_t> counts, int64_t own, int64_t all) {
             inner_->all_gather_v(stream, out.rows(0, all), in.rows(0, own), counts);
           });
  }

 private:
  // make(shorter) enqueues the call, of which peers see `seen`.
  void call(const std::string& seen, const std::function<void(bool shorter)>& make) {
    if (calls_->held != nullptr && calls_->held_call == seen) {
      // Nobody could tell the two apart: then the next pair.
      std::exchange(calls_->held, nullptr)();
    } else if (calls_->held != nullptr) {
      make(false);
      std::exchange(calls_->held, nullptr)();
      mutant_.applied = true;
      return;
    }
    if (calls_->next++ < mutant_.site || mutant_.applied) {
      make(false);
      return;
    }
    if (kind_ == Kind::kSwap) {
      calls_->held = [make] { make(false); };
      calls_->held_call = seen;
      return;
    }
    mutant_.applied = true;
    if (kind_ == Kind::kShorten) make(true);
    if (kind_ == Kind::kRepeat) {
      make(false);
      make(false);
    }
  }
  [[nodiscard]] std::string seen(const char* op, const Stream& stream, const TensorView& larger) const {
    return fmt::format("{} {} {} {} {}", group(), channel_, op, larger.describe(), stream.tag());
  }
  void call_v(const std::string& seen, std::span<const int64_t> rows,
              const std::function<void(std::span<const int64_t>, int64_t own, int64_t all)>& make) {
    const std::vector<int64_t> counts(rows.begin(), rows.end());
    call(seen, [=, this](bool shorter) {
      std::vector<int64_t> now = counts;
      if (shorter) {
        // One row less of the first rank that has any.
        for (auto& count : now) {
          if (count == 0) continue;
          --count;
          break;
        }
      }
      int64_t all = 0;
      for (const int64_t count : now) all += count;
      make(now, now[static_cast<size_t>(rank())], all);
    });
  }

  const int channel_;
  const Kind kind_;
  Mutant& mutant_;
  std::shared_ptr<Calls> calls_;
};

/// Calls that a rank makes wrongly.
inline std::vector<MutantKind> order_mutants() {
  const auto kind = [](std::string name, MutantCommunicator::Kind what) {
    return MutantKind{
        std::move(name), [what](Mutant& mutant, Hooks& hooks) {
          const auto calls = std::make_shared<MutantCommunicator::Calls>();
          hooks.wrap_communicator =
              [&mutant, what, calls](
                  int rank, plan::Group, int channel,
                  std::unique_ptr<comm::Communicator> inner) -> std::unique_ptr<comm::Communicator> {
            // Nobody hears the calls of a group of one.
            if (rank != mutant.rank || inner->size() == 1) return inner;
            return std::make_unique<MutantCommunicator>(std::move(inner), channel, what, mutant, calls);
          };
        }};
  };
  return {kind("order: a call is left out", MutantCommunicator::Kind::kSkip),
          kind("order: a call comes twice", MutantCommunicator::Kind::kRepeat),
          kind("order: two calls are swapped", MutantCommunicator::Kind::kSwap),
          kind("count: a call is a row short", MutantCommunicator::Kind::kShorten)};
}

/// Events that a rank leaves out.
inline std::vector<MutantKind> event_mutants() {
  const auto kind = [](std::string name, int64_t device::NullOptions::*index,
                       int64_t (device::NullDevice::*count)() const) {
    return MutantKind{std::move(name),
                      [index](Mutant& mutant, Hooks& hooks) {
                        hooks.device_options = [&mutant, index](int rank, device::NullOptions& options) {
                          if (rank != mutant.rank) return;
                          options.check_order = true;
                          options.*index = mutant.site;
                        };
                      },
                      [count](const device::NullDevice& device) { return (device.*count)(); }};
  };
  return {kind("event: a wait is left out", &device::NullOptions::drop_wait, &device::NullDevice::num_waits),
          kind("event: a record is left out", &device::NullOptions::drop_record,
               &device::NullDevice::num_records)};
}

}  // namespace weft::runtime::simulate
