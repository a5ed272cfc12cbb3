#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "plan/build_kind.h"
#include "plan/random_batches.h"
#include "plan/random_scenario.h"
#include "plan/shrink.h"
#include "runtime/simulate/simulation.h"

namespace weft::runtime::simulate {
namespace {

/// The first seed of this run: WEFT_SIMULATE_SEED, or always the same.
uint64_t base_seed() {
  const char* text = std::getenv("WEFT_SIMULATE_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

Totals simulate(const Scenario& scenario) {
  Hooks hooks;
  // One rank of each run proves that its ops are ordered by streams and events.
  const int checked = static_cast<int>(scenario.seed % static_cast<uint64_t>(scenario.config.tp_size));
  hooks.device_options = [checked](int rank, device::NullOptions& options) {
    options.check_order = rank == checked;
  };
  return Simulation(scenario, std::move(hooks)).run();
}

std::string error_of(const Scenario& scenario) {
  try {
    simulate(scenario);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

constexpr int kShards = 8;
constexpr int64_t kRankSteps = (kSlowBuild ? 20'000 : 1'000'000) / kShards;

class SimulateTest : public ::testing::TestWithParam<int> {};

TEST_P(SimulateTest, RandomStreamsOnRandomConfigurationsKeepEveryPromise) {
  const uint64_t first = base_seed() + static_cast<uint64_t>(GetParam()) * 1'000'000;
  Totals sum;
  uint64_t seed = first;
  for (; sum.rank_steps < kRankSteps; ++seed) {
    const Scenario scenario = RandomScenario(seed).scenario(kSlowBuild ? 40 : 120);
    try {
      const Totals totals = simulate(scenario);
      sum.steps += totals.steps;
      sum.rank_steps += totals.rank_steps;
      sum.meetings += totals.meetings;
      sum.requests += totals.requests;
      sum.discarded_rows += totals.discarded_rows;
    } catch (const std::exception& e) {
      const Scenario shortest = Shrinker(error_of).shrink(scenario);
      FAIL() << "seed " << seed << ": " << e.what() << "\nshortest reproduction: " << error_of(shortest)
             << "\n"
             << shortest.describe();
    }
  }
  std::printf(
      "seeds %llu to %llu: %lld steps, %lld rank-steps, %lld collectives, %lld requests, %lld discarded "
      "rows\n",
      static_cast<unsigned long long>(first), static_cast<unsigned long long>(seed - 1),
      static_cast<long long>(sum.steps), static_cast<long long>(sum.rank_steps),
      static_cast<long long>(sum.meetings), static_cast<long long>(sum.requests),
      static_cast<long long>(sum.discarded_rows));
}

TEST_P(SimulateTest, RandomBatchesOfEveryModeKeepEveryPromise) {
  const uint64_t first = base_seed() + static_cast<uint64_t>(GetParam()) * 1'000'000;
  int64_t rank_steps = 0;
  uint64_t seed = first;
  for (; rank_steps < kRankSteps / 5; ++seed) {
    try {
      rank_steps += RandomBatches(seed).run(kSlowBuild ? 30 : 100);
    } catch (const std::exception& e) {
      FAIL() << "seed " << seed << ": " << e.what();
    }
  }
  std::printf("seeds %llu to %llu: %lld rank-steps\n", static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(seed - 1), static_cast<long long>(rank_steps));
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulateTest, ::testing::Range(0, kShards));

}  // namespace
}  // namespace weft::runtime::simulate
