#include "plan/mutants.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "plan/build_kind.h"
#include "plan/random_scenario.h"
#include "plan/shrink.h"
#include "runtime/simulate/simulation.h"

namespace weft::runtime::simulate {
namespace {

constexpr int kWanted = kSlowBuild ? 2 : 25;  // mutants of a kind that change something

constexpr const char* kDeepseek = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 97, "hidden_size": 16,
  "intermediate_size": 16, "moe_intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 8, "routed_scaling_factor": 1.5,
  "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 4, "qk_nope_head_dim": 4, "n_group": 1,
  "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "norm_topk_prob": true,
  "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu", "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16"})";

/// Who found it, by the words of the message.
std::string detector(const std::string& message) {
  const std::pair<const char*, const char*> words[] = {
      {"waits for ever", "hang"},         {"comes with", "meeting"},
      {"predicted trace", "trace"},       {"left the plan", "trace"},
      {"nothing orders", "order of ops"}, {"capture", "capture"},
      {"made the plan", "plan hash"},     {"ran collectives", "collectives' hash"}};
  for (const auto& [word, name] : words) {
    if (message.find(word) != std::string::npos) return name;
  }
  return "own check";
}

struct Outcome {
  int caught = 0;
  std::vector<std::string> missed;
  std::map<std::string, int> detectors;
};

/// Injects mutants of one kind until kWanted of them have changed something.
Outcome hunt(const MutantKind& kind, bool check_trace = true, bool ahead = false) {
  Outcome outcome;
  for (uint64_t seed = 1; outcome.caught + static_cast<int>(outcome.missed.size()) < kWanted && seed < 4000;
       ++seed) {
    RandomScenario random(seed);
    Scenario scenario = random.scenario(24);
    for (Intent& intent : scenario.intents) intent.ahead = intent.ahead || ahead;
    Mutant mutant{.rank = static_cast<int>(random.between(0, scenario.config.tp_size - 1)),
                  .step = static_cast<uint64_t>(random.between(1, 12)),
                  .site = random.between(0, 200),
                  .seed = static_cast<uint64_t>(random.between(0, 1 << 30))};
    Hooks hooks;
    hooks.check_trace = check_trace;
    kind.install(mutant, hooks);
    try {
      Simulation(scenario, hooks).run();
      if (mutant.applied) outcome.missed.push_back("seed " + std::to_string(seed));
    } catch (const std::exception& e) {
      ++outcome.caught;
      ++outcome.detectors[detector(e.what())];
    }
  }
  std::printf("%-34s caught %d, missed %zu:", kind.name.c_str(), outcome.caught, outcome.missed.size());
  for (const auto& [name, count] : outcome.detectors) std::printf(" %s %d", name.c_str(), count);
  for (const auto& missed : outcome.missed) std::printf(" [%s]", missed.c_str());
  std::printf("\n");
  return outcome;
}

void expect_all_caught(const std::vector<MutantKind>& kinds, bool check_trace = true) {
  for (const MutantKind& kind : kinds) {
    const Outcome outcome = hunt(kind, check_trace);
    EXPECT_TRUE(outcome.missed.empty()) << kind.name;
    EXPECT_EQ(outcome.caught, kWanted) << kind.name;
  }
}

TEST(MutantsTest, AVoteOrACountThatOneRankReceivesDifferentlyIsCaught) { expect_all_caught(vote_mutants()); }

TEST(MutantsTest, APlanThatOneRankMadeDifferentlyIsCaught) { expect_all_caught(plan_mutants()); }

TEST(MutantsTest, AnInputOrAPlanThatDoesNotHoldTheBatchIsCaught) { expect_all_caught(input_mutants()); }

TEST(MutantsTest, APageThatIsReusedBeforeItsStepRetiredIsCaught) {
  const Outcome outcome = hunt(early_page_mutant(), true, true);
  EXPECT_TRUE(outcome.missed.empty());
  EXPECT_EQ(outcome.caught, kWanted);
}

TEST(MutantsTest, ACallThatIsLeftOutRepeatedSwappedOrShortIsCaught) { expect_all_caught(order_mutants()); }

TEST(MutantsTest, SuchCallsAreCaughtByThePeersAlone) { expect_all_caught(order_mutants(), false); }

/// Two micro-batches with rows on every rank in every step.
Scenario busy_scenario(bool dispatched, bool graphs, int dp_size) {
  Scenario s;
  s.config.tp_size = 4;
  s.config.dp_size = dp_size;
  s.config.enable_dp_attention = true;
  s.config.enable_two_batch_overlap = true;
  if (dispatched) {
    s.config.moe_a2a_backend = "deepep";
    s.config.ep_size = 4;
  }
  s.config.max_tokens_per_step = 16;
  s.config.max_running_requests = 4;
  s.config.context_length = 32;
  s.config.max_total_tokens = 128;
  if (graphs) s.config.graph_batch_sizes = {4};
  s.model = model::parse_config(kDeepseek);
  s.stop_chance = 0.0;
  Intent intent{
      .arrivals = {}, .prefill = 15, .decode = 15, .chunk = 16, .budget = 16, .releases = {}, .ahead = true};
  for (int dp_rank = 0; dp_rank < dp_size; ++dp_rank) {
    for (const int64_t length : {3, 3, 4, 4}) {
      intent.arrivals.push_back({.dp_rank = dp_rank, .prompt_len = length, .max_new_tokens = 20});
    }
  }
  s.intents.push_back(intent);
  intent.arrivals.clear();
  for (int i = 0; i < 4; ++i) s.intents.push_back(intent);
  return s;
}

struct EventHunt {
  int caught = 0;
  int missed = 0;
  int64_t steps = 0;
};

/// Each wait (or record) of rank 1 in turn is left out.
EventHunt leave_out_each(const MutantKind& kind, const Scenario& scenario) {
  EventHunt hunt;
  for (Mutant mutant{.rank = 1};; ++mutant.site) {
    Hooks hooks;
    kind.install(mutant, hooks);
    try {
      Simulation simulation(scenario, hooks);
      hunt.steps = simulation.run().steps;
      if (kind.num_sites(simulation.ranks().device(mutant.rank)) <= mutant.site) return hunt;
      ++hunt.missed;
    } catch (const std::exception&) {
      ++hunt.caught;
    }
  }
}

TEST(MutantsTest, EachEventThatIsLeftOutIsCaughtUnlessAnotherOneImpliesIt) {
  for (const MutantKind& kind : event_mutants()) {
    for (const bool dispatched : {true, false}) {
      for (const bool graphs : {true, false}) {
        for (const int dp_size : {2, 4}) {
          if (kSlowBuild && dp_size == 4) continue;
          const EventHunt hunt = leave_out_each(kind, busy_scenario(dispatched, graphs, dp_size));
          std::printf("%-30s %s %s dp %d: caught %d, missed %d in %lld steps\n", kind.name.c_str(),
                      dispatched ? "dispatched" : "gathered", graphs ? "graphs" : "eager", dp_size,
                      hunt.caught, hunt.missed, static_cast<long long>(hunt.steps));
          EXPECT_GE(hunt.caught, 40);
          // The last event of micro-batch 0 in a step: nothing reads what it orders before the compute stream
          // has waited for the one of micro-batch 1, which comes behind it on the communication stream.
          EXPECT_LE(hunt.missed, hunt.steps);
        }
      }
    }
  }
}

TEST(ShrinkTest, AFailureInALongStreamBecomesAFewSteps) {
  const auto error_of = [](const Scenario& scenario) -> std::string {
    Hooks hooks;  // rank 0 runs a chunk too many whenever some rank is MIXED
    hooks.edit_plan = [](int rank, plan::StepPlan& plan) {
      const bool mixed =
          std::find(plan.modes.begin(), plan.modes.end(), plan::ForwardMode::kMixed) != plan.modes.end();
      if (rank != 0 || !mixed) return false;
      ++plan.micro_batches[0].expert_chunks;
      return true;
    };
    try {
      Simulation(scenario, hooks).run();
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  };
  Scenario scenario = busy_scenario(true, true, 2);
  StreamConfig stream{.num_steps = 100, .max_prompt = 8, .max_new_tokens = 20, .seed = 3};
  scenario.intents = random_intents(scenario.config, stream);
  ASSERT_NE(error_of(scenario), "");
  const Scenario shortest = Shrinker(error_of).shrink(scenario);
  EXPECT_NE(error_of(shortest), "");
  EXPECT_LE(shortest.intents.size(), 4U) << shortest.describe();
}

}  // namespace
}  // namespace weft::runtime::simulate
