#include <numeric>

#include "base/error.h"
#include "plan/fnv.h"
#include "plan/step_plan.h"

namespace weft::plan {
namespace {

constexpr int64_t kMaxTokensPerReq = 1 << 16;  // so that no product of sizes overflows

}  // namespace

void PlanConfig::validate() const {
  parallel.validate();
  tbo_cost_table.validate();
  WEFT_CHECK(tokens_per_req >= 1 && tokens_per_req <= kMaxTokensPerReq,
             "plan: tokens_per_req={} must be at least 1 and at most {}", tokens_per_req, kMaxTokensPerReq);
  for (const int64_t rows : {normal_chunk_rows, low_latency_rows, logit_chunk_rows}) {
    WEFT_CHECK(
        rows >= 1 && rows <= INT32_MAX,
        "plan: normal_chunk_rows={}, low_latency_rows={} and logit_chunk_rows={} must be at least 1 and "
        "at most {}",
        normal_chunk_rows, low_latency_rows, logit_chunk_rows, INT32_MAX);
  }
  const int64_t micro_batches = parallel.enable_two_batch_overlap ? 2 : 1;
  const int64_t multiple = std::lcm(row_alignment(), tokens_per_req) * micro_batches;
  int64_t last = 0;
  for (const int64_t bucket : graph_buckets) {
    WEFT_CHECK(bucket > last && bucket <= INT32_MAX,
               "plan: graph bucket {} after {}; buckets must be positive, ascend and end at {} or before",
               bucket, last, INT32_MAX);
    WEFT_CHECK(bucket % multiple == 0,
               "plan: graph bucket {} is no multiple of {} (attention TP ranks {}, rows of a request {}, "
               "micro-batches {}); make the list with filter_capture_sizes, each size times tokens_per_req",
               bucket, multiple, row_alignment(), tokens_per_req, micro_batches);
    last = bucket;
  }
  const bool low_latency = dispatch_mode(parallel, false) == DispatchMode::kLowLatency;
  WEFT_CHECK(
      !low_latency || last / micro_batches / parallel.attn_tp_size() <= low_latency_rows,
      "plan: graph bucket {} has {} rows a rank in a micro-batch, more than low_latency_rows={}; a graph has "
      "one expert chunk",
      last, last / micro_batches / parallel.attn_tp_size(), low_latency_rows);
}

uint64_t PlanConfig::hash() const {
  const ParallelConfig& p = parallel;
  Fnv fnv;
  fnv.add(p.tp_size)
      .add(p.dp_size)
      .add(p.enable_dp_attention)
      .add(p.ep_size)
      .add(p.a2a_backend)
      .add(p.deepep_mode)
      .add(p.moe_dense_tp_size)
      .add(p.enable_dp_lm_head)
      .add(p.enable_two_batch_overlap)
      .add(p.enable_layernorm_sp)
      .add(tbo_policy)
      .add(tbo_gate)
      .add(graph_buckets)
      .add(graph_padding)
      .add(tokens_per_req)
      .add(normal_chunk_rows)
      .add(low_latency_rows)
      .add(logit_chunk_rows);
  tbo_cost_table.add_to(fnv);
  return fnv.value();
}

uint64_t StepPlan::hash() const {
  Fnv fnv;
  fnv.add(step_id).add(run).add(is_extend_in_batch).add(modes).add(schedule).add(dispatch);
  fnv.add(layernorm_sp);
  fnv.add(tbo).add(no_tbo_reason).add(micro_batches.size());
  for (const MicroBatchPlan& batch : micro_batches) {
    fnv.add(batch.num_tokens).add(batch.rows).add(batch.padding).add(batch.start);
    fnv.add(batch.gathered_rows).add(batch.expert_chunks);
  }
  fnv.add(graph_bucket).add(graph_miss).add(logit_rows).add(logit_chunks);
  return fnv.value();
}

}  // namespace weft::plan
