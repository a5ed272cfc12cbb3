#include "runtime/requests.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <set>

#include "base/math.h"
#include "pipeline_fixture.h"

namespace weft::runtime {
namespace {

constexpr RequestLimits kLimits = {.max_requests = 6,
                                   .max_tokens = 40,
                                   .max_context = 64,
                                   .page_size = 4,
                                   .num_pages = 40,
                                   .max_top_logprobs = 0,
                                   .vocab_size = 50};

// Random steps of one DP rank, up to two in flight, with whatever tokens come back.
class Scheduler {
 public:
  explicit Scheduler(uint32_t seed) : rng_(seed), requests_(1, kLimits) {}

  void step(bool admit) {
    StepBatch batch;
    batch.decode = {pick(0, 3) > 0};
    if (admit && pick(0, 1) == 0) batch.admissions.push_back(make_admission());
    for (auto& [rid, left] : prompts_) {
      if (left == 0 || pick(0, 1) == 0) continue;
      const int64_t count = pick(1, std::min<int64_t>(left, 5));
      batch.prefill.emplace_back(rid, count);
      left -= count;
    }
    if (!prompts_.empty() && pick(0, 7) == 0) {
      const int64_t rid = prompts_.begin()->first;
      if (std::none_of(batch.prefill.begin(), batch.prefill.end(),
                       [&](const auto& p) { return p.first == rid; })) {
        prompts_.erase(rid);
        batch.release.push_back(rid);
      }
    }
    std::vector<RankBatch> batches;
    schedule(std::move(batch), batches);
    check_rows(batches[0]);
    in_flight_.push_back(std::move(batches[0]));
    if (in_flight_.size() == 2) retire();
    check_pages();
  }

  void finish() {
    while (!in_flight_.empty()) retire();
    for (int i = 0; i < 100; ++i) step(false);
    StepBatch rest;
    for (const auto& [rid, left] : prompts_) rest.release.push_back(rid);
    std::vector<RankBatch> batches;
    requests_.schedule(std::move(rest), batches);
    while (!in_flight_.empty()) retire();
    EXPECT_EQ(table().pages().used(), 0);
    EXPECT_EQ(table().pages().available(), kLimits.num_pages);
    EXPECT_EQ(table().free_slots(), kLimits.max_requests);
  }

 private:
  int64_t pick(int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(rng_); }
  [[nodiscard]] const RequestTable& table() const { return requests_.table(0); }

  Admission make_admission() {
    Admission a =
        admission(next_rid_++, std::vector<int32_t>(static_cast<size_t>(pick(1, 12)), 1), pick(1, 9));
    a.stop_token_ids = {static_cast<int32_t>(pick(0, 9))};
    return a;
  }

  // An admission that does not fit changes nothing and comes again later, here without it.
  void schedule(StepBatch batch, std::vector<RankBatch>& batches) {
    StepBatch without = batch;
    without.admissions.clear();
    const std::vector<Admission> admissions = batch.admissions;
    const int64_t used = table().pages().used(), available = table().pages().available();
    try {
      requests_.schedule(std::move(batch), batches);
      for (const Admission& a : admissions) prompts_[a.rid] = static_cast<int64_t>(a.input_ids.size());
    } catch (const Error&) {
      ASSERT_FALSE(admissions.empty());
      EXPECT_EQ(table().pages().used(), used);
      EXPECT_EQ(table().pages().available(), available);
      requests_.schedule(std::move(without), batches);
      ++num_refused;
    }
  }

  void retire() {
    const RankBatch batch = std::move(in_flight_.front());
    in_flight_.pop_front();
    exec::ForwardOutput output;
    for (size_t i = 0; i < batch.wanted.size(); ++i)
      output.tokens.push_back(static_cast<int32_t>(pick(0, 19)));
    output.logprobs.resize(batch.wanted.size());
    StepResult result;
    requests_.retire(0, batch, output, result);
    for (size_t i = 0; i < result.rids.size(); ++i) {
      EXPECT_EQ(prompts_.count(result.rids[i]), 1U) << "a token of a request that is over";
      if (result.finished[i] != Finish::kRunning) prompts_.erase(result.rids[i]);
    }
  }

  // Rows of a request continue where the step before ended; a slot's owner stays while steps in flight have
  // rows.
  void check_rows(const RankBatch& batch) {
    std::set<int32_t> slots;
    for (const SequenceRows& rows : batch.seqs) {
      const Request& request = table().at(rows.slot);
      EXPECT_TRUE(slots.insert(rows.slot).second);
      EXPECT_EQ(rows.start, next_position_[request.rid]);
      next_position_[request.rid] = rows.start + rows.num_tokens;
      EXPECT_LT(next_position_[request.rid], request.prompt_len() + request.max_new_tokens);
      EXPECT_EQ(rows.decode, rows.start >= request.prompt_len());
    }
  }

  // Each taken page has one owner, and each owner just the pages of what it was scheduled.
  void check_pages() {
    std::set<int32_t> owned;
    int64_t promised = 0;
    for (int32_t slot = 0; slot < kLimits.max_requests; ++slot) {
      const Request& request = table().at(slot);
      if (request.state == Request::State::kFree) continue;
      EXPECT_EQ(static_cast<int64_t>(request.pages.size()),
                ceil_div(request.num_scheduled, kLimits.page_size));
      for (const int32_t page : request.pages) EXPECT_TRUE(owned.insert(page).second) << "page " << page;
      promised += request.promised_pages;
    }
    EXPECT_EQ(table().pages().used(), static_cast<int64_t>(owned.size()));
    EXPECT_EQ(table().pages().available(), kLimits.num_pages - table().pages().used() - promised);
    EXPECT_GE(table().pages().available(), 0);
    for (const RankBatch& batch : in_flight_) {
      for (const SequenceRows& rows : batch.seqs)
        EXPECT_NE(table().at(rows.slot).state, Request::State::kFree);
    }
  }

  std::mt19937 rng_;
  Requests requests_;
  std::map<int64_t, int64_t> prompts_;  // live requests: tokens of the prompt that are left
  std::map<int64_t, int64_t> next_position_;
  std::deque<RankBatch> in_flight_;
  int64_t next_rid_ = 0;

 public:
  int num_refused = 0;
};

TEST(RequestsTest, PagesHaveOneOwnerAndAllComeBackAndPositionsContinue) {
  int num_refused = 0;
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Scheduler scheduler(seed);
    for (int i = 0; i < 300; ++i) scheduler.step(true);
    scheduler.finish();
    num_refused += scheduler.num_refused;
  }
  EXPECT_GT(num_refused, 20);  // the cache was full at times
}

}  // namespace
}  // namespace weft::runtime
