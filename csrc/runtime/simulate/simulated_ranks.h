#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "comm/null/null_world.h"
#include "device/null/null_device.h"
#include "exec/rank_worker.h"
#include "model/config.h"
#include "runtime/simulate/step_audit.h"
#include "runtime/step_runner.h"

namespace weft::runtime::simulate {

/// What tests change in a simulation; all optional.
struct Hooks {
  std::function<void(int rank, device::NullOptions& options)> device_options;
  std::function<std::unique_ptr<comm::Communicator>(int rank, plan::Group group, int channel,
                                                    std::unique_ptr<comm::Communicator>)>
      wrap_communicator;
  std::function<void(Step& step)> edit_step;  // before anybody looks at it
  /// What a rank receives of the agreement; true if it was changed. That rank then makes its own plan of it.
  std::function<bool(int rank, std::vector<plan::RankState>& states)> edit_states;
  /// The plan that this rank then made, and the one that the others made.
  std::function<void(int rank, const plan::StepPlan& own, const plan::StepPlan& agreed)> own_plan;
  std::function<bool(int rank, plan::StepPlan& plan)> edit_plan;  // of one rank; true if it was changed
  bool check_trace = true;                        // compare what a rank enqueues with the predicted trace
  std::function<void(const Step& step)> on_step;  // after every rank has enqueued it
};

struct RanksConfig {
  exec::ExecConfig exec;
  model::ModelConfig model;
  uint64_t seed = 0;
  double stop_chance = 0.05;  // that a sampled token is kStopToken
  Hooks hooks;
};

/// The ranks of a simulation, one after the other on the caller's thread: each is the real exec::RankWorker,
/// without weights, on a null device. push() lets every rank enqueue the step, in random order; wait() lets
/// their streams meet.
///
/// Sampled tokens are random. So is what a rank has for itself and no plan may read: replace_rank() makes it
/// forget its graphs and the turn of its buffers.
///
/// Throws Error, naming step and rank: what StepAudit finds; collectives other than the predicted ones; ranks
/// whose collectives do not match, or that wait for ever; ranks that made unlike plans of one step.
class SimulatedRanks final : public StepRunner {
 public:
  static constexpr int32_t kStopToken = 0;

  explicit SimulatedRanks(RanksConfig config);
  ~SimulatedRanks() override;

  void push(const std::shared_ptr<Step>& step) override;
  void wait(const Step& step) override;
  void fail(int rank, const std::string& message) noexcept override;
  void check() const override;
  [[nodiscard]] std::vector<exec::RankCounters> counters() const override;
  void close() override {}

  /// Lets the streams meet now, rather than in wait().
  void run() { world_.run(); }
  /// Puts a new rank in the place of one, if no step is in flight.
  void replace_rank(int rank);
  [[nodiscard]] int64_t rank_steps() const { return rank_steps_; }
  [[nodiscard]] int64_t num_meetings() const { return world_.num_meetings(); }
  [[nodiscard]] device::NullDevice& device(int rank) { return *ranks_[static_cast<size_t>(rank)].device; }
  [[nodiscard]] const StepAudit& audit() const { return audit_; }

 private:
  struct Rank {
    std::unique_ptr<device::NullDevice> device;
    std::unique_ptr<exec::RankWorker> worker;
    std::deque<plan::StepPlan> own_plans;  // of steps in flight in which it differs from the others
    uint64_t plan_hash = 0;                // of the last step
  };

  void make_rank(int rank);
  void enqueue(int rank, const Step& step, const std::vector<plan::CollectiveRecord>& predicted);
  const plan::StepPlan& plan_of(int rank, const Step& step);
  void check_trace(int rank, const Step& step, const std::vector<plan::CollectiveRecord>& predicted) const;
  void check_hashes() const;
  void sample(const exec::ForwardInput& input, exec::ForwardOutput& output);

  RanksConfig config_;
  plan::ModelShape shape_;
  std::mt19937_64 rng_;
  comm::NullWorld world_;
  std::vector<Rank> ranks_;  // after the world: their communicators are its own
  StepAudit audit_;
  std::deque<std::shared_ptr<Step>> steps_;  // in flight
  uint64_t last_step_ = 0;
  int64_t rank_steps_ = 0;
  std::string failure_;
};

}  // namespace weft::runtime::simulate
