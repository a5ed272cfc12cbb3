#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "fake_worker.h"
#include "runtime/pipeline.h"

namespace weft::runtime {

struct FakeSetup {
  int tp_size = 1;
  int dp_size = 1;
  int64_t page_size = 1;
  int64_t num_pages = 64;
  int64_t max_requests = 8;
  int64_t max_tokens = 64;
  bool overlap = false;
  std::vector<int64_t> graph_buckets = {};
  std::chrono::milliseconds timeout{20000};
};

/// A Pipeline over fake ranks.
class FakePipeline {
 public:
  explicit FakePipeline(const FakeSetup& setup) {
    PipelineConfig config;
    config.plan.parallel.tp_size = setup.tp_size;
    config.plan.parallel.dp_size = setup.dp_size;
    config.plan.parallel.enable_dp_attention = setup.dp_size > 1;
    config.plan.parallel.enable_two_batch_overlap = setup.overlap;
    config.plan.graph_buckets = setup.graph_buckets;
    config.plan.normal_chunk_rows = setup.max_tokens;
    config.plan.low_latency_rows = setup.max_tokens;
    config.plan.logit_chunk_rows = setup.max_tokens;
    config.limits = {.max_requests = setup.max_requests,
                     .max_tokens = setup.max_tokens,
                     .max_context = 512,
                     .page_size = setup.page_size,
                     .num_pages = setup.num_pages,
                     .max_top_logprobs = 4,
                     .vocab_size = world.model.vocab};
    config.timeout = setup.timeout;
    world.num_ranks = setup.tp_size;
    world.attn_tp_size = config.plan.parallel.attn_tp_size();
    world.page_size = setup.page_size;
    world.num_pages = setup.num_pages;
    world.num_slots = setup.max_requests;
    world.max_top = 4;
    config_ = config;
  }

  void start() {
    pipeline = std::make_unique<Pipeline>(
        config_,
        [this](int rank, const std::function<void(const std::string&)>&) {
          if (world.on_call) world.on_call(rank, "start", 0);
          return std::make_unique<FakeWorker>(rank, world);
        },
        [this](const std::string& reason) { world.abort(reason); });
  }

  /// A whole generation, step by step without overlap.
  StepResult run(StepBatch batch) {
    const uint64_t ticket = pipeline->submit(std::move(batch));
    return ticket == 0 ? StepResult{} : pipeline->wait(ticket);
  }

  FakeWorld world;  // outlives the pipeline
  std::unique_ptr<Pipeline> pipeline;

 private:
  PipelineConfig config_;
};

inline Admission admission(int64_t rid, std::vector<int32_t> prompt, int64_t max_new_tokens,
                           int dp_rank = 0) {
  Admission a;
  a.rid = rid;
  a.dp_rank = dp_rank;
  a.input_ids = std::move(prompt);
  a.max_new_tokens = max_new_tokens;
  return a;
}

/// The message of the Error that `call` throws; fails the test if it throws none.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace weft::runtime
