#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include "runtime/pipeline.h"
#include "runtime/simulate/scenario.h"
#include "runtime/simulate/simulated_ranks.h"

namespace weft::runtime::simulate {

/// What a run came to.
struct Totals {
  int64_t steps = 0;
  int64_t rank_steps = 0;
  int64_t meetings = 0;  // collectives that found their peers
  int64_t requests = 0;
  int64_t discarded_rows = 0;
};

/// Runs a scenario: plays the scheduler against the real Pipeline, whose ranks are simulated.
///
/// Keeps books of its own on requests, slots and pages, and compares them with the pipeline's after every
/// step: who got a token, who finished and why, pages in use, rows that were discarded.
class Simulation {
 public:
  explicit Simulation(const Scenario& scenario, Hooks hooks = {});

  /// The whole scenario; at its end every request is gone and every page is free. Throws Error at the first
  /// thing that is wrong.
  Totals run();
  [[nodiscard]] SimulatedRanks& ranks() { return *ranks_; }

 private:
  /// A request, as the scheduler knows it.
  struct Request {
    Arrival arrival;
    int64_t scheduled = 0;  // tokens
    int64_t sampled = 0;    // tokens that steps so far will have sampled
    int64_t outputs = 0;    // that came back
    int in_flight = 0;      // steps
    bool over = false;      // finished or released; kept until no step in flight has rows of it
  };
  /// A submitted step: its requests, and whether they sample a token in it.
  struct Submitted {
    uint64_t ticket = 0;
    std::vector<std::pair<int64_t, bool>> rows;  // (rid, samples)
  };

  void submit(const Intent& intent);
  void wait();
  void release_all();
  void choose_releases(const Intent& intent, StepBatch& batch);
  void admit(const Intent& intent, StepBatch& batch);
  void choose_rows(const Intent& intent, StepBatch& batch, Submitted& step);
  void finish(int64_t rid, Request& request);
  void forget_if_gone(int64_t rid);
  void check_result(const Submitted& step, const StepResult& result);
  void check_books() const;
  [[nodiscard]] Admission admission(int64_t rid, const Arrival& arrival);
  [[nodiscard]] int64_t pages(int64_t tokens) const;
  [[nodiscard]] std::vector<int64_t> live() const;

  const Scenario& scenario_;
  const exec::ExecConfig exec_;
  const int dp_size_;
  std::mt19937_64 rng_;
  SimulatedRanks* ranks_ = nullptr;  // the pipeline's
  std::unique_ptr<Pipeline> pipeline_;
  std::unordered_map<int64_t, Request> requests_;
  std::vector<int64_t> order_;                 // rids, oldest first
  std::vector<std::vector<int64_t>> running_;  // by DP rank: prompts scheduled to their ends, in that order
  std::vector<std::deque<Arrival>> waiting_;   // by DP rank
  std::deque<Submitted> in_flight_;
  int64_t next_rid_ = 0;
  int64_t num_finished_ = 0, num_released_ = 0, num_discarded_ = 0;
  Totals totals_;
};

}  // namespace weft::runtime::simulate
