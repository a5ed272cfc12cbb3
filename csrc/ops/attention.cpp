#include "ops/attention.h"

#include <initializer_list>

#include "base/error.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/cpu/kernels.h"

namespace weft::ops {
namespace {

using device::read;
using device::write;

// Attention reads its operands a row at a time, so only the innermost dimension must be dense.
void check_input(const char* op, const char* name, const TensorView& view,
                 std::initializer_list<int64_t> shape) {
  check_shape(op, name, view, shape);
  check_compute_dtype(op, name, view);
  check_dense_rows(op, name, view);
}

void check_output(const char* op, const TensorView& view, std::initializer_list<int64_t> shape) {
  check_shape(op, "out", view, shape);
  check_compute_dtype(op, "out", view);
  check_writable_rows(op, "out", view);
}

void check_batch(const char* op, const SequenceBatch& batch) {
  WEFT_CHECK(batch.page_size >= 1, "{}: page_size={}, but a page holds at least one token", op,
             batch.page_size);
  WEFT_CHECK(batch.max_seqs >= 0 && batch.page_table_stride >= 0,
             "{}: max_seqs={} and page_table_stride={} must not be negative", op, batch.max_seqs,
             batch.page_table_stride);
  if (batch.max_seqs == 0) return;
  WEFT_CHECK(batch.cu_q != nullptr && batch.kv_len != nullptr && batch.num_seqs != nullptr,
             "{}: the batch lacks cu_q, kv_len or num_seqs; all three are device arrays", op);
  WEFT_CHECK(batch.page_table != nullptr || batch.page_table_stride == 0,
             "{}: page_table is null, but page_table_stride={}", op, batch.page_table_stride);
}

/// What an op reads of a batch: whole arrays, since the counts in them are known only when it runs.
struct BatchAccesses {
  device::Access cu_q, kv_len, page_table, num_seqs, order;

  explicit BatchAccesses(const SequenceBatch& batch)
      : cu_q(read(batch.cu_q, bytes(batch.max_seqs + int64_t{1}))),
        kv_len(read(batch.kv_len, bytes(batch.max_seqs))),
        page_table(read(batch.page_table, bytes(int64_t{batch.max_seqs} * batch.page_table_stride))),
        num_seqs(read(batch.num_seqs, bytes(1))),
        order(read(batch.order, batch.order == nullptr ? 0 : bytes(batch.max_seqs))) {}

 private:
  static size_t bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(int32_t); }
};

}  // namespace

bool has_prefill_plan([[maybe_unused]] const device::Device& device) {
#if WEFT_HAS_FLASHINFER
  return device.backend() == device::Backend::kCuda && cuda::flashinfer_runs_here();
#else
  return false;
#endif
}

int64_t prefill_plan_size([[maybe_unused]] int64_t max_tokens, [[maybe_unused]] int64_t max_seqs) {
#if WEFT_CUDA
  return cuda::prefill_plan_size(max_tokens, max_seqs);
#else
  return 0;
#endif
}

void plan_prefill(Stream& stream, const PrefillPlanArgs& args) {
  constexpr const char* kOp = "plan_prefill";
  WEFT_CHECK(stream.device().backend() == device::Backend::kCuda, "{}: device {} has no use for a plan", kOp,
             stream.device().name());
  check_dtype(kOp, "plan", args.plan, DType::kI32);
  check_shape(kOp, "plan", args.plan, {-1});
  check_writable_rows(kOp, "plan", args.plan);
  check_batch(kOp, args.batch);
  WEFT_CHECK(args.num_prefill_seqs >= 0 && args.num_tokens >= 0,
             "{}: num_prefill_seqs={} and num_tokens={} must not be negative", kOp, args.num_prefill_seqs,
             args.num_tokens);
  const int64_t size = prefill_plan_size(args.num_tokens, args.batch.max_seqs);
  WEFT_CHECK(args.plan.shape[0] >= size, "{}: plan is {}; {} rows of {} sequences need {} values", kOp,
             args.plan.describe(), args.num_tokens, args.batch.max_seqs, size);
  if (args.batch.max_seqs == 0 || args.num_prefill_seqs == 0) return;
#if WEFT_CUDA
  const BatchAccesses batch(args.batch);
  stream.launch(kOp, &cuda::plan_prefill, args,
                {write(args.plan), batch.cu_q, batch.kv_len, batch.page_table, batch.num_seqs});
#endif
}

void paged_attention(Stream& stream, const PagedAttentionArgs& args) {
  constexpr const char* kOp = "paged_attention";
  check_input(kOp, "q", args.q, {-1, -1, -1});
  const int64_t num_tokens = args.q.shape[0];
  const int64_t q_heads = args.q.shape[1];
  const int64_t head_dim = args.q.shape[2];
  check_output(kOp, args.out, {num_tokens, q_heads, head_dim});
  check_input(kOp, "k_cache", args.k_cache, {-1, -1, head_dim});
  const int64_t kv_heads = args.k_cache.shape[1];
  check_input(kOp, "v_cache", args.v_cache, {args.k_cache.shape[0], kv_heads, head_dim});
  check_dtype(kOp, "v_cache", args.v_cache, args.k_cache.dtype);
  WEFT_CHECK(kv_heads > 0 && q_heads > 0 && q_heads % kv_heads == 0,
             "{}: q_heads={} must be a positive multiple of kv_heads={}", kOp, q_heads, kv_heads);
  check_batch(kOp, args.batch);
  WEFT_CHECK(args.num_prefill_seqs >= 0, "{}: num_prefill_seqs={} must not be negative", kOp,
             args.num_prefill_seqs);
  if (args.plan.defined()) check_dtype(kOp, "plan", args.plan, DType::kI32);
  if (args.q.numel() == 0 || args.batch.max_seqs == 0) return;
  const BatchAccesses batch(args.batch);
  stream.launch(kOp, WEFT_KERNEL(stream, paged_attention), args,
                {write(args.out), read(args.q), read(args.k_cache), read(args.v_cache), read(args.plan),
                 batch.cu_q, batch.kv_len, batch.page_table, batch.num_seqs, batch.order});
}

int64_t mla_prefill_workspace([[maybe_unused]] int64_t num_kv_tokens, [[maybe_unused]] int64_t heads,
                              [[maybe_unused]] int64_t kv_lora_rank) {
#if WEFT_HAS_FLASHINFER
  return cuda::mla_prefill_workspace(num_kv_tokens, heads, kv_lora_rank);
#else
  return 0;
#endif
}

void mla_decode(Stream& stream, const MlaDecodeArgs& args) {
  constexpr const char* kOp = "mla_decode";
  check_input(kOp, "q_nope", args.q_nope, {-1, -1, -1});
  const int64_t num_tokens = args.q_nope.shape[0];
  const int64_t heads = args.q_nope.shape[1];
  const int64_t kv_lora_rank = args.q_nope.shape[2];
  check_output(kOp, args.out, {num_tokens, heads, kv_lora_rank});
  check_input(kOp, "q_rope", args.q_rope, {num_tokens, heads, -1});
  check_input(kOp, "cache", args.cache, {-1, kv_lora_rank + args.q_rope.shape[2]});
  check_batch(kOp, args.batch);
  WEFT_CHECK(args.first_seq >= 0, "{}: first_seq={} must not be negative", kOp, args.first_seq);
  if (args.out.numel() == 0 || args.first_seq >= args.batch.max_seqs) return;
  const BatchAccesses batch(args.batch);
  stream.launch(kOp, WEFT_KERNEL(stream, mla_decode), args,
                {write(args.out), read(args.q_nope), read(args.q_rope), read(args.cache), batch.cu_q,
                 batch.kv_len, batch.page_table, batch.num_seqs});
}

void mla_prefill(Stream& stream, const MlaPrefillArgs& args) {
  constexpr const char* kOp = "mla_prefill";
  check_input(kOp, "q_nope", args.q_nope, {-1, -1, -1});
  const int64_t num_tokens = args.q_nope.shape[0];
  const int64_t heads = args.q_nope.shape[1];
  const int64_t nope_dim = args.q_nope.shape[2];
  check_input(kOp, "q_rope", args.q_rope, {num_tokens, heads, -1});
  check_output(kOp, args.out, {num_tokens, heads, -1});
  check_input(kOp, "w_kv_b", args.w_kv_b, {heads, nope_dim + args.out.shape[2], -1});
  check_input(kOp, "cache", args.cache, {-1, args.w_kv_b.shape[2] + args.q_rope.shape[2]});
  check_batch(kOp, args.batch);
  WEFT_CHECK(args.num_prefill_seqs >= 0, "{}: num_prefill_seqs={} must not be negative", kOp,
             args.num_prefill_seqs);
  if (args.plan.defined()) check_dtype(kOp, "plan", args.plan, DType::kI32);
  if (args.workspace.defined()) check_dtype(kOp, "workspace", args.workspace, DType::kU8);
  if (args.out.numel() == 0 || args.batch.max_seqs == 0 || args.num_prefill_seqs == 0) return;
  const BatchAccesses batch(args.batch);
  stream.launch(
      kOp, WEFT_KERNEL(stream, mla_prefill), args,
      {write(args.out), write(args.workspace), read(args.q_nope), read(args.q_rope), read(args.cache),
       read(args.w_kv_b), read(args.plan), batch.cu_q, batch.kv_len, batch.page_table, batch.num_seqs});
}

}  // namespace weft::ops
