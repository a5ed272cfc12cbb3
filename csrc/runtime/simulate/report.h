#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/step_plan.h"
#include "runtime/config.h"
#include "runtime/simulate/scenario.h"
#include "runtime/simulate/simulation.h"

namespace weft::runtime::simulate {

/// A span of a rank's stream on the logical clock, in which an op that does not wait takes 1 us.
struct Span {
  int rank = 0;
  std::string stream;
  std::string name;  // a collective, or how many ops ran one after the other
  int64_t start_us = 0;
  int64_t end_us = 0;
  int micro_batch = -1;  // -1: of none
};

struct StepReport {
  plan::StepPlan plan;
  std::vector<int64_t> start_us, end_us;  // by rank
};

/// What a simulated run did.
struct Report {
  Totals totals;
  std::vector<StepReport> steps;
  std::vector<Span> spans;  // if asked for, by rank
};

/// Simulates a stream of requests on the ranks of `config`, whose model's config.json is read, but no weight.
/// Each step's streams run as soon as every rank has enqueued it. The same arguments give the same report.
/// Throws Error if the configuration cannot work, and at the first thing that is wrong.
[[nodiscard]] Report simulate(const RuntimeConfig& config, const StreamConfig& stream, bool with_spans);

}  // namespace weft::runtime::simulate
