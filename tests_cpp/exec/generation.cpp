#include "exec/generation.h"

#include <algorithm>
#include <array>
#include <deque>
#include <random>
#include <set>
#include <utility>

namespace weft::exec::testing {
namespace {

struct Waiting {
  int64_t rid = 0;
  int64_t left = 0;  // prompt tokens not yet scheduled
};

/// One DP rank's queue: what the Python scheduler does, as far as a script needs it.
struct Lane {
  std::deque<Waiting> waiting;
  int64_t running = 0;
};

}  // namespace

std::vector<int32_t> prompt_of(int request, int64_t vocab) {
  constexpr std::array<int, 8> kLengths = {1, 2, 37, 13, 5, 29, 3, 17};
  std::mt19937 rng(static_cast<unsigned>(request) + 11U);
  std::vector<int32_t> ids(static_cast<size_t>(kLengths[static_cast<size_t>(request) % kLengths.size()]));
  for (auto& id : ids) id = static_cast<int32_t>(rng() % static_cast<unsigned>(vocab));
  return ids;
}

std::map<int64_t, Generated> generate(ScriptedModel& model, const Script& script, int dp_size) {
  std::map<int64_t, Generated> results;
  std::vector<Lane> lanes(static_cast<size_t>(dp_size));
  runtime::StepBatch batch;
  for (int i = 0; i < script.num_requests; ++i) {
    runtime::Admission admission;
    admission.rid = script.first_request + i;
    admission.dp_rank = i % dp_size;
    admission.input_ids = prompt_of(script.first_request + i, model.config().vocab_size);
    admission.max_new_tokens = script.new_tokens;
    admission.temperature = 0.0F;
    admission.return_logprob = true;
    admission.logprob_start = 0;
    lanes[static_cast<size_t>(admission.dp_rank)].waiting.push_back(
        {admission.rid, static_cast<int64_t>(admission.input_ids.size())});
    batch.admissions.push_back(std::move(admission));
  }
  std::deque<uint64_t> tickets;
  size_t unfinished = static_cast<size_t>(script.num_requests);
  std::set<int64_t> failed;  // without finite probabilities, and released
  const auto retire = [&] {
    const auto result = model.pipeline().wait(tickets.front());
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
      int64_t budget = script.chunk;
      bool prefills = false;
      while (budget > 0 && !lane.waiting.empty()) {
        auto& next = lane.waiting.front();
        const int64_t count = std::min(budget, next.left);
        batch.prefill.emplace_back(next.rid, count);
        next.left -= count;
        budget -= count;
        prefills = true;
        if (next.left > 0) break;
        lane.waiting.pop_front();
      }
      batch.decode.push_back(!prefills || script.mixed);
    }
    const uint64_t ticket = model.pipeline().submit(std::exchange(batch, {}));
    if (ticket != 0) tickets.push_back(ticket);
    while (tickets.size() > (script.overlap && ticket != 0 ? 1U : 0U)) retire();
  }
  while (!tickets.empty()) retire();
  return results;
}

}  // namespace weft::exec::testing
