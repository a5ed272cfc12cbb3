#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "exec/forward.h"
#include "runtime/rank_batch.h"
#include "runtime/request_table.h"
#include "runtime/step.h"

namespace weft::runtime {

struct RequestCounts {
  int64_t admitted = 0;
  int64_t finished = 0;        // by a stop token or by length
  int64_t released = 0;        // dropped by the scheduler
  int64_t discarded_rows = 0;  // sampled rows of requests that turned out to be over
};

/// The requests of all DP ranks: takes what the scheduler changes, gives the rows of a step, and commits what
/// the step left. A step may be scheduled while the one before it runs: lengths are known in advance, only a
/// stop token or a release makes a scheduled row void. One thread at a time.
class Requests {
 public:
  Requests(int attn_dp_size, const RequestLimits& limits);

  /// Applies the batch and schedules its rows: batches[d] becomes DP rank d's part. Throws Error, naming rid
  /// and numbers, if the batch cannot be applied; then nothing has changed.
  void schedule(StepBatch&& batch, std::vector<RankBatch>& batches);
  /// Appends what DP rank d's part of a step left. Steps retire in the order in which they were scheduled.
  void retire(int dp_rank, const RankBatch& batch, const exec::ForwardOutput& output, StepResult& result);

  [[nodiscard]] const RequestTable& table(int dp_rank) const { return tables_[static_cast<size_t>(dp_rank)]; }
  [[nodiscard]] const RequestCounts& counts() const { return counts_; }

 private:
  struct Place {
    int dp_rank = 0;
    int32_t slot = 0;
  };

  void check(const StepBatch& batch) const;
  void check_room(const StepBatch& batch) const;
  void check_rows(const StepBatch& batch) const;
  [[nodiscard]] const Place& find(int64_t rid, const char* what) const;
  void commit_row(RequestTable& table, int32_t slot, const exec::ForwardOutput& output, size_t row,
                  StepResult& result);
  Finish commit_token(RequestTable& table, int32_t slot, int32_t token);

  std::vector<RequestTable> tables_;           // by DP rank
  std::unordered_map<int64_t, Place> places_;  // live requests, by rid
  RequestCounts counts_;
};

}  // namespace weft::runtime
