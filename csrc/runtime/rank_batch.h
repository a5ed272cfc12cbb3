#pragma once

#include <cstdint>
#include <vector>

#include "exec/forward.h"
#include "plan/step_plan.h"
#include "runtime/request_table.h"

namespace weft::runtime {

/// The new tokens of one request in a step: positions [start, start + num_tokens).
struct SequenceRows {
  int32_t slot = 0;
  int64_t start = 0;
  int64_t num_tokens = 0;
  bool decode = false;  // one token, the last one sampled; else tokens of the prompt
};

/// A row whose logits are wanted, before the batch is cut into micro-batches.
struct WantedRow {
  int32_t seq = 0;              // index in RankBatch::seqs
  int64_t token = 0;            // row in the batch
  int64_t input_position = -1;  // of the prompt token whose log-probability this is; -1: a token is sampled
};

/// One DP rank's part of a step. Prefills stand before decodes.
struct RankBatch {
  std::vector<SequenceRows> seqs;
  std::vector<WantedRow> wanted;  // ascending in `token`
  int64_t num_tokens = 0;
  int64_t num_prefills = 0;

  [[nodiscard]] int64_t num_decodes() const { return static_cast<int64_t>(seqs.size()) - num_prefills; }
  [[nodiscard]] plan::ForwardMode mode() const;
  void clear();
};

/// Schedules the next `count` tokens of a request's prompt. The row of the last prompt token samples a token;
/// a chunk that ends before it samples none.
void add_prefill(RankBatch& batch, RequestTable& table, int32_t slot, int64_t count);
/// Schedules a row for each running request, those of prefills already in `batch` not among them.
void add_decodes(RankBatch& batch, RequestTable& table);

/// What the rank says of its batch. Overlap: where the splitter cuts it, should the plan overlap the step.
struct StateArgs {
  uint64_t step_id = 0;
  uint64_t config_hash = 0;
  uint64_t trace_hash = 0;
  bool overlap = false;
  double split_threshold = 0.48;
  int attn_tp_size = 1;
};
[[nodiscard]] plan::RankState make_rank_state(const RankBatch& batch, const StateArgs& args);

/// Fills `input`: rows [0, first_tokens) make the first micro-batch, the others the second. A sequence may be
/// cut between them; its second part then sees the first one's K and V.
void fill_forward_input(const RankBatch& batch, const RequestTable& table, int64_t first_tokens,
                        exec::ForwardInput& input);

}  // namespace weft::runtime
