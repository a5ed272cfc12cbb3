#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "exec/stage_times.h"
#include "ops/sampling.h"
#include "plan/step_plan.h"
#include "plan/trace.h"

namespace weft::exec {

/// One micro-batch of one DP rank, on the host: what its rank threads copy into their fixed input buffers.
/// Prefill sequences stand before decode sequences. Real rows only; padding is added by the rank.
struct MicroBatchInput {
  std::vector<int32_t> ids;  // [num_tokens]; >= 0: token id; < 0: the last token sampled for slot -(id + 1)
  std::vector<int32_t> positions;  // [num_tokens]
  std::vector<int32_t> kv_slots;   // [num_tokens]: page * page_size + offset
  std::vector<int32_t> cu_q;       // [num_seqs + 1]
  std::vector<int32_t> kv_len;     // [num_seqs], this step's tokens included
  std::vector<int32_t> pages;  // the sequences' page ids, one after the other: ceil(kv_len / page_size) each
  int32_t num_prefill_seqs = 0;

  [[nodiscard]] int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  [[nodiscard]] int64_t num_seqs() const { return static_cast<int64_t>(kv_len.size()); }
};

/// One row whose logits are wanted.
struct LogitRow {
  int32_t micro_batch = 0;
  int32_t row = 0;      // in the micro-batch
  int32_t slot = -1;    // request slot whose last token the sample becomes; -1: nothing is sampled
  int32_t target = -1;  // token whose log-probability is wanted; -1: the sampled one
  int32_t num_top = 0;  // largest log-probabilities wanted
  bool want_logprob = false;
  ops::SamplingRow sampling;
};

/// One step of one DP rank. Made by the runtime, read by the rank threads of its attention-TP group.
struct ForwardInput {
  std::array<MicroBatchInput, 2> micro_batches;  // the second is empty without overlap
  std::vector<LogitRow> logit_rows;
  std::vector<int32_t> unused_pages;  // tests with ExecConfig::poison: pages that no request owns
};

/// What a step left, in the order of ForwardInput::logit_rows.
struct ForwardOutput {
  std::vector<int32_t> tokens;      // [rows]; -1 where nothing was sampled
  std::vector<float> logprobs;      // [rows]; of the target or sampled token; 0 if not wanted
  std::vector<int32_t> top_ids;     // [rows, max_top]
  std::vector<float> top_logprobs;  // [rows, max_top]
  int32_t max_top = 0;
};

/// Counters of one rank since start: what really ran.
struct RankCounters {
  std::array<int64_t, 8> steps_by_mode{};  // by ForwardMode
  int64_t tbo_steps = 0;
  std::array<int64_t, 8> tbo_steps_by_mode{};  // by this rank's mode
  int64_t layernorm_sp_steps = 0;              // with rows scattered over attention TP between parts
  int64_t tbo_unlike_mode_steps = 0;  // overlapped steps in which DP ranks with rows had unlike modes
  int64_t graph_replays = 0;
  int64_t graph_captures = 0;
  double graph_capture_us = 0.0;  // host time of them all
  int64_t graph_bytes = 0;        // device memory that they took, instantiated and uploaded
  double replay_host_us = 0.0;    // host time of enqueueing the steps of graph_replays
  StageTimes stages;
  std::array<int64_t, 16> graph_misses{};   // by GraphMiss
  std::array<int64_t, 3> dispatch_steps{};  // by DispatchMode
  int64_t real_tokens = 0;
  int64_t padded_tokens = 0;                  // rows run beyond the real ones
  int64_t multi_chunk_steps = 0;              // steps with more than one expert chunk
  int64_t dispatched_rows = 0;                // rows that reached this rank's experts by dispatch
  std::array<int64_t, 8> collective_calls{};  // by Collective
  std::array<int64_t, 8> collective_bytes{};  // capacity bytes, by Collective
};

}  // namespace weft::exec
