#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exec/rank_worker.h"
#include "runtime/step_runner.h"

namespace weft::runtime::simulate {

/// Checks each step of a simulation against what it was made from, without the code that made it: every token
/// of the batches is in exactly one micro-batch and one row, with its position and its place in the cache;
/// padding is below its bound and every size within its capacity; a page or request slot has no new owner
/// before the last step of the old one has retired. Throws Error naming step, DP rank and numbers.
class StepAudit {
 public:
  explicit StepAudit(const exec::ExecConfig& config);

  /// A step that is about to run; steps come in order.
  void pushed(const Step& step);
  /// The oldest step that was pushed is over.
  void retired(const Step& step) { last_retired_ = step.id; }

 private:
  struct Owner {
    int64_t generation = -1;  // of the request slot
    int32_t slot = -1;
    uint64_t last_step = 0;  // with a row of it
  };
  struct DpRank {
    std::vector<Owner> pages;                      // by page
    std::vector<int64_t> generations;              // by slot: requests that have started in it
    std::vector<uint64_t> last_steps;              // by slot
    std::vector<int64_t> next_position;            // by slot: of the request's next token
    std::vector<std::vector<int32_t>> slot_pages;  // by slot: the request's pages so far
  };

  void check_plan(const Step& step) const;
  void check_padding(const Step& step, const plan::MicroBatchPlan& batch, size_t dp_rank) const;
  void check_capacity(const Step& step) const;
  void check_rows(const Step& step, size_t dp_rank);
  void check_sequence(const Step& step, size_t dp_rank, const SequenceRows& rows);
  void check_logit_rows(const Step& step, size_t dp_rank) const;
  void own_pages(const Step& step, size_t dp_rank, int32_t slot, const int32_t* pages, int64_t count);

  /// Where check_rows() stands in a micro-batch.
  struct Place {
    size_t row = 0, seq = 0, page = 0;
  };

  exec::ExecConfig config_;
  std::vector<DpRank> dp_ranks_;
  std::vector<Place> places_;  // of the micro-batches of the DP rank under check
  uint64_t last_retired_ = 0;
};

}  // namespace weft::runtime::simulate
