#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "runtime/runtime.h"

namespace weft::test {

/// What one request gave.
struct Generated {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;        // of the tokens
  std::vector<float> input_logprobs;  // of the prompt, from its second token on

  bool operator==(const Generated&) const = default;
};

/// How a generation is cut into steps.
struct Schedule {
  int64_t chunk = 16;   // prefill tokens of one DP rank in one step
  bool mixed = false;   // decode rows go along with prompts
  bool overlap = true;  // a step is submitted while the one before it runs
};

/// Runs all requests to their ends: what the Python scheduler does, as far as a test needs it. They must fit
/// into the runtime together. Returns what each gave, by rid.
inline std::map<int64_t, Generated> generate(runtime::Runtime& runtime,
                                             std::vector<runtime::Admission> requests, int dp_size,
                                             const Schedule& schedule = {}) {
  struct Waiting {
    int64_t rid = 0;
    int64_t left = 0;  // prompt tokens not yet scheduled
  };
  std::map<int64_t, Generated> results;
  std::vector<std::deque<Waiting>> lanes(static_cast<size_t>(dp_size));
  for (const auto& request : requests) {
    lanes.at(static_cast<size_t>(request.dp_rank))
        .push_back({request.rid, static_cast<int64_t>(request.input_ids.size())});
  }
  size_t unfinished = requests.size();
  runtime::StepBatch batch{.admissions = std::move(requests)};
  std::deque<uint64_t> tickets;
  std::set<int64_t> failed;  // without finite probabilities, and released
  const auto retire = [&] {
    const auto result = runtime.wait(tickets.front());
    tickets.pop_front();
    for (size_t i = 0; i < result.rids.size(); ++i) {
      if (failed.count(result.rids[i]) != 0) continue;
      results[result.rids[i]].tokens.push_back(result.tokens[i]);
      if (result.finished[i] != runtime::Finish::kRunning) --unfinished;
      if (result.finished[i] == runtime::Finish::kFailed) {
        failed.insert(result.rids[i]);
        batch.release.push_back(result.rids[i]);
      }
    }
    for (const auto& row : result.output_logprobs) results[row.rid].logprobs.push_back(row.logprob);
    for (const auto& rows : result.input_logprobs) {
      auto& to = results[rows.rid].input_logprobs;
      to.insert(to.end(), rows.logprobs.begin(), rows.logprobs.end());
    }
  };
  while (unfinished > 0) {
    for (auto& lane : lanes) {
      int64_t budget = schedule.chunk;
      bool prefills = false;
      while (budget > 0 && !lane.empty()) {
        auto& next = lane.front();
        const int64_t count = std::min(budget, next.left);
        batch.prefill.emplace_back(next.rid, count);
        next.left -= count;
        budget -= count;
        prefills = true;
        if (next.left > 0) break;
        lane.pop_front();
      }
      batch.decode.push_back(!prefills || schedule.mixed);
    }
    const uint64_t ticket = runtime.submit(std::exchange(batch, {}));
    if (ticket != 0) tickets.push_back(ticket);
    while (tickets.size() > (schedule.overlap && ticket != 0 ? 1U : 0U)) retire();
  }
  while (!tickets.empty()) retire();
  return results;
}

}  // namespace weft::test
