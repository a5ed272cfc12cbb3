#include "runtime/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline_fixture.h"

namespace weft::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<int32_t> iota_prompt(int32_t length) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back(3 * i + 1);
  return prompt;
}

TEST(PipelineTest, OnlyTheLastChunkOfAPromptYieldsAToken) {
  FakePipeline fake({.page_size = 4});
  fake.start();
  const auto prompt = iota_prompt(7);
  EXPECT_THAT(fake.run({.admissions = {admission(5, prompt, 2)}, .prefill = {{5, 3}}}).rids, IsEmpty());
  EXPECT_THAT(fake.run({.prefill = {{5, 3}}}).rids, IsEmpty());
  const StepResult last = fake.run({.prefill = {{5, 1}}});
  EXPECT_THAT(last.rids, ElementsAre(5));
  EXPECT_THAT(last.tokens, ElementsAre(fake.world.model.next(prompt)));
  EXPECT_THAT(last.finished, ElementsAre(Finish::kRunning));
}

TEST(PipelineTest, DecodesInTheStepAfterTheLastChunkBeforeItsResultIsKnown) {
  FakePipeline fake({});
  fake.start();
  auto tokens = iota_prompt(3);
  const uint64_t first =
      fake.pipeline->submit({.admissions = {admission(1, tokens, 3)}, .prefill = {{1, 3}}});
  const uint64_t second = fake.pipeline->submit({.decode = {true}});
  tokens.push_back(fake.world.model.next(tokens));
  EXPECT_THAT(fake.pipeline->wait(first).tokens, ElementsAre(tokens.back()));
  EXPECT_THAT(fake.pipeline->wait(second).tokens, ElementsAre(fake.world.model.next(tokens)));
}

TEST(PipelineTest, ARequestGetsNoRowBeyondMaxNewTokens) {
  FakePipeline fake({});
  fake.start();
  const uint64_t first = fake.pipeline->submit({.admissions = {admission(1, {4}, 2)}, .prefill = {{1, 1}}});
  const uint64_t second = fake.pipeline->submit({.decode = {true}});
  EXPECT_THAT(fake.pipeline->wait(first).finished, ElementsAre(Finish::kRunning));
  EXPECT_EQ(fake.pipeline->submit({.decode = {true}}), 0U);  // both tokens are scheduled
  EXPECT_THAT(fake.pipeline->wait(second).finished, ElementsAre(Finish::kLength));
  EXPECT_EQ(fake.pipeline->stats().pages_used, 0);
  EXPECT_EQ(fake.pipeline->stats().requests.discarded_rows, 0);
}

TEST(PipelineTest, ARowInFlightBehindAStopTokenIsDiscardedAndKeepsItsPagesUntilItRetires) {
  FakePipeline fake({.num_pages = 8});
  fake.start();
  Admission stops = admission(1, {4, 9}, 6);
  stops.stop_token_ids = {fake.world.model.next({4, 9})};
  const uint64_t first = fake.pipeline->submit({.admissions = {stops}, .prefill = {{1, 2}}});
  const uint64_t second = fake.pipeline->submit({.decode = {true}});
  EXPECT_THAT(fake.pipeline->wait(first).finished, ElementsAre(Finish::kStop));
  EXPECT_GT(fake.pipeline->stats().pages_used, 0);
  // All 8 pages are promised until the row in flight has gone.
  EXPECT_THAT(
      error_of([&] { fake.pipeline->submit({.admissions = {admission(2, {1}, 1)}}); }),
      HasSubstr("request 2: 1 prompt tokens and max_new_tokens=1 need 2 KV pages, DP rank 0 has 0 of 8"));
  EXPECT_THAT(fake.pipeline->wait(second).rids, IsEmpty());
  EXPECT_EQ(fake.pipeline->stats().pages_used, 0);
  EXPECT_EQ(fake.pipeline->stats().requests.discarded_rows, 1);
  EXPECT_EQ(fake.pipeline->submit({.admissions = {admission(2, {1}, 7)}}), 0U);
}

TEST(PipelineTest, AReleasedRequestGetsNoTokenOfAStepInFlight) {
  FakePipeline fake({});
  fake.start();
  const uint64_t first = fake.pipeline->submit(
      {.admissions = {admission(1, {4}, 9), admission(2, {5}, 9)}, .prefill = {{1, 1}, {2, 1}}});
  const uint64_t second = fake.pipeline->submit({.decode = {true}, .release = {1}});
  EXPECT_THAT(fake.pipeline->wait(first).rids, ElementsAre(2));
  EXPECT_THAT(fake.pipeline->wait(second).rids, ElementsAre(2));
  EXPECT_EQ(fake.pipeline->stats().pages_used, 2);  // of request 2 alone
  // The number is free again at once.
  EXPECT_THAT(fake.run({.admissions = {admission(1, {7}, 1)}, .prefill = {{1, 1}}}).rids, ElementsAre(1));
}

TEST(PipelineTest, InputLogprobsContinueOverChunks) {
  FakePipeline fake({});
  fake.start();
  const auto prompt = iota_prompt(6);
  Admission a = admission(1, prompt, 1);
  a.logprob_start = 2;
  a.top_logprobs_num = 2;
  const auto expected = [&](int64_t position) {
    return FakeModel::logprob({prompt.begin(), prompt.begin() + position},
                              prompt[static_cast<size_t>(position)]);
  };
  const StepResult first = fake.run({.admissions = {a}, .prefill = {{1, 3}}});
  ASSERT_EQ(first.input_logprobs.size(), 1U);
  EXPECT_EQ(first.input_logprobs[0].first, 2);
  // The chunk's last row tells of the next chunk's first token.
  EXPECT_THAT(first.input_logprobs[0].logprobs, ElementsAre(expected(2), expected(3)));
  EXPECT_EQ(first.input_logprobs[0].top[1].size(), 2U);
  EXPECT_EQ(first.input_logprobs[0].top[1][1].logprob,
            FakeModel::logprob({prompt.begin(), prompt.begin() + 3}, 1));
  const StepResult second = fake.run({.prefill = {{1, 3}}});
  ASSERT_EQ(second.input_logprobs.size(), 1U);
  EXPECT_EQ(second.input_logprobs[0].first, 4);
  EXPECT_THAT(second.input_logprobs[0].logprobs, ElementsAre(expected(4), expected(5)));
  EXPECT_THAT(second.rids, ElementsAre(1));
  EXPECT_THAT(second.output_logprobs, IsEmpty());  // of the prompt alone
}

TEST(PipelineTest, LogprobStartZeroBeginsAtTheSecondToken) {
  FakePipeline fake({});
  fake.start();
  Admission a = admission(1, {5, 6}, 1);
  a.logprob_start = 0;
  const StepResult result = fake.run({.admissions = {a}, .prefill = {{1, 2}}});
  ASSERT_EQ(result.input_logprobs.size(), 1U);
  EXPECT_EQ(result.input_logprobs[0].first, 1);
  EXPECT_THAT(result.input_logprobs[0].logprobs, ElementsAre(FakeModel::logprob({5}, 6)));
}

TEST(PipelineTest, AStepWithNothingToRunAppliesItsChanges) {
  FakePipeline fake({});
  fake.start();
  EXPECT_EQ(fake.pipeline->submit({.admissions = {admission(3, {1, 2}, 1)}}), 0U);
  EXPECT_THAT(fake.run({.prefill = {{3, 2}}}).rids, ElementsAre(3));
}

TEST(PipelineTest, AtMostTwoTicketsAreOut) {
  FakePipeline fake({});
  fake.start();
  const uint64_t first = fake.pipeline->submit({.admissions = {admission(1, {4}, 9)}, .prefill = {{1, 1}}});
  fake.pipeline->submit({.decode = {true}});
  EXPECT_THAT(error_of([&] { fake.pipeline->submit({.decode = {true}}); }),
              HasSubstr("steps 1 and 2 are in flight; wait for step 1 first"));
  EXPECT_THAT(error_of([&] { fake.pipeline->wait(2); }), HasSubstr("the oldest step in flight is 1"));
  EXPECT_THAT(fake.pipeline->wait(first).rids, ElementsAre(1));
  EXPECT_THAT(fake.pipeline->wait(2).rids, ElementsAre(1));
  EXPECT_THAT(error_of([&] { fake.pipeline->wait(3); }), HasSubstr("no step is in flight"));
}

TEST(PipelineTest, ARankStartsAStepBeforeItCollectsTheOneBefore) {
  FakePipeline fake({});
  fake.start();
  uint64_t last = fake.pipeline->submit({.admissions = {admission(1, {4}, 9)}, .prefill = {{1, 1}}});
  for (int i = 0; i < 4; ++i) {
    const uint64_t next = fake.pipeline->submit({.decode = {true}});
    fake.pipeline->wait(last);
    last = next;
  }
  fake.pipeline->wait(last);
  EXPECT_THAT(fake.world.log,
              ElementsAre("enqueue 0 1", "enqueue 0 2", "collect 0 1", "enqueue 0 3", "collect 0 2",
                          "enqueue 0 4", "collect 0 3", "enqueue 0 5", "collect 0 4", "collect 0 5"));
}

TEST(PipelineTest, ATracedStepRunsAloneAndLeavesItsTimeline) {
  FakePipeline fake({.tp_size = 2});
  fake.start();
  EXPECT_THAT(fake.pipeline->timeline(), IsEmpty());
  uint64_t last = fake.pipeline->submit({.admissions = {admission(1, {4}, 9)}, .prefill = {{1, 1}}});
  fake.pipeline->trace_next_step();
  for (int i = 0; i < 3; ++i) {  // the fake rank refuses to trace beside another step
    const uint64_t next = fake.pipeline->submit({.decode = {true}});
    fake.pipeline->wait(last);
    last = next;
  }
  fake.pipeline->wait(last);
  const auto timeline = fake.pipeline->timeline();
  ASSERT_EQ(timeline.size(), 4U);
  EXPECT_EQ(timeline[0].name, "early");
  EXPECT_EQ(timeline[0].start_us, 0.0);
  EXPECT_EQ(timeline[1].rank, 1);
  EXPECT_EQ(timeline[3].end_us, 6.0);
  EXPECT_EQ(timeline[3].micro_batch, 1);
}

// What the scheduler may not ask; each leaves everything as it was.
struct Refusal {
  const char* name;
  StepBatch batch;
  const char* message;
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

Admission with(Admission a, const std::function<void(Admission&)>& change) {
  change(a);
  return a;
}

std::vector<Refusal> refusals() {
  const Admission ok = admission(7, {1, 2}, 4);
  return {
      {"UnknownRelease", {.release = {9}}, "release: request 9 is unknown"},
      {"ReleaseTwice", {.release = {1, 1}}, "release: request 1 is named twice"},
      {"RidTaken", {.admissions = {admission(1, {1}, 1)}}, "request 1: the number is taken"},
      {"RidTwice", {.admissions = {ok, ok}}, "request 7: the number is taken"},
      {"RidNegative", {.admissions = {admission(-3, {1}, 1)}}, "rid=-3 must not be negative"},
      {"NoSuchDpRank", {.admissions = {admission(7, {1}, 1, 1)}}, "request 7: dp_rank=1 of 1"},
      {"EmptyPrompt", {.admissions = {admission(7, {}, 1)}}, "request 7: the prompt is empty"},
      {"NoNewTokens", {.admissions = {admission(7, {1}, 0)}}, "request 7: max_new_tokens=0"},
      {"TooLong", {.admissions = {admission(7, {1}, 512)}}, "exceed the context length 512"},
      {"NeverEnoughPages", {.admissions = {admission(7, {1}, 100)}}, "need 101 KV pages, DP rank 0 has 64"},
      {"BadToken", {.admissions = {admission(7, {1, 97}, 1)}}, "token id 97 is outside the vocabulary of 97"},
      {"BadTemperature",
       {.admissions = {with(ok, [](Admission& a) { a.temperature = -1.0F; })}},
       "temperature=-1"},
      {"BadTopP", {.admissions = {with(ok, [](Admission& a) { a.top_p = 0.0F; })}}, "top_p=0"},
      {"BadTopK", {.admissions = {with(ok, [](Admission& a) { a.top_k = -1; })}}, "top_k=-1"},
      {"BadMinP", {.admissions = {with(ok, [](Admission& a) { a.min_p = 2.0F; })}}, "min_p=2"},
      {"BadTop", {.admissions = {with(ok, [](Admission& a) { a.top_logprobs_num = 5; })}}, "at most 4"},
      {"BadLogprobStart",
       {.admissions = {with(ok, [](Admission& a) { a.logprob_start = 3; })}},
       "logprob_start=3"},
      {"PagesTaken",
       {.admissions = {admission(7, {1}, 60)}},
       "need 61 KV pages, DP rank 0 has 57 of 64 left"},
      {"UnknownPrefill", {.prefill = {{9, 1}}}, "prefill: request 9 is unknown"},
      {"PrefillTwice",
       {.admissions = {ok}, .prefill = {{7, 1}, {7, 1}}},
       "prefill: request 7 is named twice"},
      {"PrefillTooMuch",
       {.admissions = {ok}, .prefill = {{7, 3}}},
       "a chunk of 3 tokens, but 2 of its prompt are left"},
      {"PrefillNothing", {.admissions = {ok}, .prefill = {{7, 0}}}, "a chunk of 0 tokens"},
      {"PrefillOfReleased", {.prefill = {{1, 1}}, .release = {1}}, "request 1 is released in the same step"},
      {"PrefillAfterPrompt", {.prefill = {{1, 1}}}, "a chunk of 1 tokens, but 0 of its prompt are left"},
      {"DecodeSize", {.decode = {true, true}}, "decode has 2 entries for 1 DP ranks"},
      {"TooManyTokens",
       {.admissions = {admission(7, iota_prompt(16), 1)}, .prefill = {{7, 16}}, .decode = {true}},
       "DP rank 0: 16 prefill and 1 decode tokens exceed the 16 of a step"},
  };
}

class RefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesTheReasonAndChangesNothing) {
  FakePipeline fake({.max_tokens = 16});
  fake.start();
  fake.run({.admissions = {admission(1, {4, 5}, 5)}, .prefill = {{1, 2}}});
  EXPECT_THAT(error_of([&] { fake.pipeline->submit(GetParam().batch); }), HasSubstr(GetParam().message));
  EXPECT_EQ(fake.pipeline->stats().requests.admitted, 1);
  EXPECT_EQ(fake.pipeline->stats().pages_used, 2);
  EXPECT_THAT(fake.run({.admissions = {admission(7, {1, 2}, 4)}, .prefill = {{7, 2}}, .decode = {true}}).rids,
              ElementsAre(7, 1));
}

INSTANTIATE_TEST_SUITE_P(All, RefusalTest, testing::ValuesIn(refusals()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(PipelineTest, RefusesARequestWithoutASlot) {
  FakePipeline fake({.max_requests = 1});
  fake.start();
  fake.run({.admissions = {admission(1, {4, 5}, 5)}, .prefill = {{1, 2}}});
  EXPECT_THAT(error_of([&] { fake.pipeline->submit({.admissions = {admission(2, {4}, 1)}}); }),
              HasSubstr("request 2: all 1 request slots of DP rank 0 are taken"));
  // A released request that no step in flight knows makes room in the same batch.
  EXPECT_THAT(fake.run({.admissions = {admission(2, {4}, 1)}, .prefill = {{2, 1}}, .release = {1}}).rids,
              ElementsAre(2));
}

}  // namespace
}  // namespace weft::runtime
