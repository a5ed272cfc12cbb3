#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "pipeline_fixture.h"

// Random streams of requests through the whole pipeline: what comes out must be what the fake model says of
// each request alone, whatever batches it stood in.
namespace weft::runtime {
namespace {

struct Stream {
  const char* name;
  FakeSetup setup;
  bool ahead = true;     // step n + 1 is submitted before step n is waited for
  bool mixed = true;     // prefills and decodes of a DP rank share steps
  int64_t chunk = 1000;  // longest
};

void PrintTo(const Stream& stream, std::ostream* out) { *out << stream.name; }

// One request: what it should give, what it gave, and what the client knows of it.
struct Expected {
  Admission admission;
  std::vector<int32_t> tokens = {};
  Finish finish = Finish::kRunning;

  std::vector<int32_t> got = {};
  Finish got_finish = Finish::kRunning;
  std::vector<float> got_input = {};
  int64_t prefilled = 0;
  bool released = false;
  uint64_t free_after = 0;  // once over: its slot and pages are free when this step was waited for

  [[nodiscard]] int64_t prompt_len() const { return static_cast<int64_t>(admission.input_ids.size()); }
  [[nodiscard]] int64_t num_tokens() const { return prompt_len() + admission.max_new_tokens; }
  [[nodiscard]] bool over() const { return released || got_finish != Finish::kRunning; }
};

// What a scheduler does: keeps the budget, picks chunks, waits for steps in order.
class Client {
 public:
  Client(const Stream& stream, uint32_t seed)
      : stream_(stream), setup_(stream.setup), rng_(seed), fake_(setup_) {
    fake_.start();
  }

  void run(int64_t num_requests) {
    num_requests_ = num_requests;
    for (int steps = 0; made_ < num_requests || !in_flight_.empty() || any_unfinished(); ++steps) {
      ASSERT_LT(steps, 5000) << "no progress";
      const uint64_t ticket = fake_.pipeline->submit(next_batch());
      if (ticket != 0) in_flight_.push_back(last_ticket_ = ticket);
      const size_t keep = stream_.ahead && ticket != 0 ? 1 : 0;
      while (in_flight_.size() > keep) {
        commit(fake_.pipeline->wait(in_flight_.front()));
        waited_ = in_flight_.front();
        in_flight_.pop_front();
      }
    }
    for (const auto& [rid, e] : requests_) check_end(rid, e);
    EXPECT_EQ(stats().pages_used, 0);
  }

  [[nodiscard]] Stats stats() const { return fake_.pipeline->stats(); }

 private:
  int64_t pick(int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(rng_); }
  std::vector<int32_t> pick_tokens(int64_t count) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(pick(0, 96)));
    return tokens;
  }
  [[nodiscard]] bool any_unfinished() const {
    return std::any_of(requests_.begin(), requests_.end(), [](const auto& r) { return !r.second.over(); });
  }

  Expected make_request(int64_t rid) {
    Expected e{.admission = admission(rid, pick_tokens(pick(1, 20)), pick(1, 8),
                                      static_cast<int>(pick(0, setup_.dp_size - 1)))};
    Admission& a = e.admission;
    a.stop_token_ids = pick_tokens(pick(0, 12));
    if (pick(0, 2) == 0) a.logprob_start = pick(0, e.prompt_len());
    a.return_logprob = pick(0, 1) == 0;
    std::vector<int32_t> context = a.input_ids;
    while (e.finish == Finish::kRunning) {
      context.push_back(fake_.world.model.next(context));
      e.tokens.push_back(context.back());
      if (std::count(a.stop_token_ids.begin(), a.stop_token_ids.end(), context.back()) > 0) {
        e.finish = Finish::kStop;
      } else if (static_cast<int64_t>(e.tokens.size()) == a.max_new_tokens) {
        e.finish = Finish::kLength;
      }
    }
    return e;
  }

  [[nodiscard]] bool fits(const Expected& candidate) const {
    int64_t slots = setup_.max_requests, pages = setup_.num_pages;
    for (const auto& [rid, e] : requests_) {
      if (e.admission.dp_rank != candidate.admission.dp_rank) continue;
      if (e.over() && e.free_after <= waited_) continue;
      slots -= 1;
      pages -= ceil_div(e.num_tokens(), setup_.page_size);
    }
    return slots > 0 && ceil_div(candidate.num_tokens(), setup_.page_size) <= pages;
  }

  StepBatch next_batch() {
    StepBatch batch;
    if (!requests_.empty() && pick(0, 9) == 0) release_one(batch);
    while (made_ < num_requests_ && pick(0, 2) > 0) {
      Expected e = make_request(made_);
      if (!fits(e)) break;
      ++made_;
      batch.admissions.push_back(e.admission);
      requests_.emplace(e.admission.rid, std::move(e));
    }
    for (int d = 0; d < setup_.dp_size; ++d) {
      const bool prefills = add_chunks(d, batch);
      batch.decode.push_back((stream_.mixed || !prefills) && pick(0, 5) > 0);
    }
    return batch;
  }

  bool add_chunks(int dp_rank, StepBatch& batch) {
    int64_t budget = setup_.max_tokens - setup_.max_requests;
    const size_t before = batch.prefill.size();
    for (auto& [rid, e] : requests_) {
      const int64_t left = e.prompt_len() - e.prefilled;
      if (e.admission.dp_rank != dp_rank || e.over() || left == 0 || budget == 0 || pick(0, 3) == 0) continue;
      const int64_t count = std::min({left, budget, pick(1, stream_.chunk)});
      batch.prefill.emplace_back(rid, count);
      e.prefilled += count;
      budget -= count;
    }
    return batch.prefill.size() > before;
  }

  void release_one(StepBatch& batch) {
    auto& [rid, e] = *std::next(requests_.begin(), pick(0, static_cast<int64_t>(requests_.size()) - 1));
    if (e.over()) return;
    e.released = true;
    e.free_after = last_ticket_;
    batch.release.push_back(rid);
  }

  void commit(const StepResult& result) {
    for (size_t i = 0; i < result.rids.size(); ++i) {
      Expected& e = requests_.at(result.rids[i]);
      ASSERT_FALSE(e.over()) << "request " << result.rids[i] << " got a token after its end";
      e.got.push_back(result.tokens[i]);
      e.got_finish = result.finished[i];
      if (e.over()) e.free_after = last_ticket_;
    }
    for (const OutputLogprob& out : result.output_logprobs) {
      const Expected& e = requests_.at(out.rid);
      EXPECT_TRUE(e.admission.return_logprob);
      std::vector<int32_t> context = e.admission.input_ids;
      context.insert(context.end(), e.got.begin(), e.got.end() - 1);
      EXPECT_EQ(out.logprob, FakeModel::logprob(context, e.got.back()));
    }
    for (const InputLogprobs& in : result.input_logprobs) {
      Expected& e = requests_.at(in.rid);
      const auto first = std::max<int64_t>(e.admission.logprob_start, 1);
      EXPECT_EQ(in.first, first + static_cast<int64_t>(e.got_input.size()));
      e.got_input.insert(e.got_input.end(), in.logprobs.begin(), in.logprobs.end());
    }
  }

  void check_end(int64_t rid, const Expected& e) const {
    if (e.released) {
      ASSERT_LE(e.got.size(), e.tokens.size());
      EXPECT_TRUE(std::equal(e.got.begin(), e.got.end(), e.tokens.begin()));
      return;
    }
    EXPECT_EQ(e.got, e.tokens) << "request " << rid;
    EXPECT_EQ(e.got_finish, e.finish) << "request " << rid;
    const auto& prompt = e.admission.input_ids;
    std::vector<float> input;
    for (int64_t p = std::max<int64_t>(e.admission.logprob_start, 1);
         e.admission.logprob_start >= 0 && p < e.prompt_len(); ++p) {
      input.push_back(
          FakeModel::logprob({prompt.begin(), prompt.begin() + p}, prompt[static_cast<size_t>(p)]));
    }
    EXPECT_EQ(e.got_input, input) << "request " << rid;
  }

  const Stream& stream_;
  const FakeSetup& setup_;
  std::mt19937 rng_;
  FakePipeline fake_;
  std::map<int64_t, Expected> requests_;
  std::deque<uint64_t> in_flight_;
  uint64_t last_ticket_ = 0;
  uint64_t waited_ = 0;
  int64_t num_requests_ = 0;
  int64_t made_ = 0;
};

class GenerationTest : public testing::TestWithParam<Stream> {};

TEST_P(GenerationTest, EachRequestGetsWhatItWouldGetAlone) {
  Stats last;
  int64_t discarded = 0, tbo = 0;
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Client client(GetParam(), seed);
    client.run(40);
    last = client.stats();
    discarded += last.requests.discarded_rows;
    tbo += last.ranks[0].tbo_steps;
    EXPECT_EQ(last.requests.admitted, 40);
    EXPECT_EQ(last.requests.finished + last.requests.released, 40);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(discarded > 0, GetParam().ahead);
  EXPECT_EQ(tbo > 0, GetParam().setup.overlap);
}

INSTANTIATE_TEST_SUITE_P(
    Streams, GenerationTest,
    testing::Values(
        Stream{"OneRank", {}}, Stream{.name = "OneRankWaitingForEachStep", .setup = {}, .ahead = false},
        Stream{.name = "PrefillsApart", .setup = {.page_size = 4, .num_pages = 20}, .mixed = false},
        Stream{.name = "ChunksOfOne", .setup = {.page_size = 3, .num_pages = 24}, .chunk = 1},
        Stream{.name = "ChunksOfSeven", .setup = {.tp_size = 2, .page_size = 16, .num_pages = 5}, .chunk = 7},
        Stream{.name = "FourDpRanks", .setup = {.tp_size = 4, .dp_size = 4, .num_pages = 50}},
        Stream{.name = "TwoDpRanksOfTwo",
               .setup = {.tp_size = 4, .dp_size = 2, .page_size = 8, .num_pages = 9}},
        Stream{.name = "Overlap", .setup = {.page_size = 4, .overlap = true}},
        Stream{.name = "OverlapOfUnlikeRanks",
               .setup = {.tp_size = 2, .dp_size = 2, .overlap = true},
               .chunk = 9},
        Stream{.name = "OverlapInGraphs",
               .setup =
                   {.tp_size = 2, .dp_size = 2, .page_size = 2, .overlap = true, .graph_buckets = {2, 4, 8}},
               .mixed = false},
        Stream{.name = "Graphs", .setup = {.graph_buckets = {1, 2, 4}}, .mixed = false}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace weft::runtime
