// What ops ask of FlashInfer's kernels.
#include "kernels/attention/flashinfer.h"
#include "kernels/attention/flashinfer_expand.h"
#include "kernels/attention/flashinfer_ops.h"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

/// Rows of a bf16 view can be fetched 16 bytes at a time.
bool is_aligned(const device::TensorView& view) {
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  for (int d = 0; d + 1 < view.rank; ++d) aligned = aligned && view.stride[static_cast<size_t>(d)] % 8 == 0;
  return aligned;
}

constexpr int64_t kNope = 128;
constexpr int64_t kRope = 64;
constexpr int64_t kValue = 128;

/// What mla_prefill expands, in its workspace. All bf16.
struct Expanded {
  device::TensorView latents;         // [tokens, kv_lora_rank + kRope]: rows of the cache
  device::TensorView keys;            // [tokens, heads, kNope + kRope]
  device::TensorView nope_and_value;  // [tokens, heads, kNope + kValue]
  int64_t num_bytes = 0;

  Expanded(void* memory, int64_t tokens, int64_t heads, int64_t kv_lora_rank) {
    const auto take = [&](std::initializer_list<int64_t> shape) {
      const auto view = device::make_view(static_cast<char*>(memory) + num_bytes, DType::kBF16, shape);
      num_bytes += (view.numel() * 2 + 255) / 256 * 256;
      return view;
    };
    latents = take({tokens, kv_lora_rank + kRope});
    keys = take({tokens, heads, kNope + kRope});
    nope_and_value = take({tokens, heads, kNope + kValue});
  }
};

}  // namespace

bool flashinfer_serves(const ops::PagedAttentionArgs& args) {
  if (!args.plan.defined()) return false;
  for (const device::TensorView& view : {args.out, args.q, args.k_cache, args.v_cache}) {
    if (view.dtype != DType::kBF16 || view.shape[2] != 128 || !is_aligned(view)) return false;
  }
  return args.k_cache.stride == args.v_cache.stride &&
         int64_t{args.batch.max_seqs} * args.batch.page_table_stride <= INT32_MAX;
}

void flashinfer_paged_attention(const CudaContext& context, const ops::PagedAttentionArgs& args) {
  launch_paged_prefill(context, {.out = args.out,
                                 .q = args.q,
                                 .k_cache = args.k_cache,
                                 .v_cache = args.v_cache,
                                 .page_table = args.batch.page_table,
                                 .page_table_stride = args.batch.page_table_stride,
                                 .page_size = args.batch.page_size,
                                 .plan = args.plan.as<int32_t>(),
                                 .scale = args.scale});
}

bool flashinfer_serves(const ops::MlaPrefillArgs& args) {
  if (!args.plan.defined() || !args.workspace.defined() || args.num_kv_tokens <= 0) return false;
  for (const device::TensorView& view : {args.out, args.q_nope, args.q_rope, args.cache, args.w_kv_b}) {
    if (view.dtype != DType::kBF16 || !is_aligned(view)) return false;
  }
  const int64_t heads = args.q_nope.shape[1];
  const int64_t latent = args.w_kv_b.shape[2];
  // The two parts of a query are one row of 192.
  const bool joined =
      args.q_rope.data == args.q_nope.as<uint16_t>() + kNope && args.q_rope.stride == args.q_nope.stride;
  return joined && args.q_nope.shape[2] == kNope && args.q_rope.shape[2] == kRope &&
         args.out.shape[2] == kValue && latent % 8 == 0 && args.w_kv_b.is_contiguous() &&
         args.workspace.shape[0] >= ops::cuda::mla_prefill_workspace(args.num_kv_tokens, heads, latent);
}

void flashinfer_mla_prefill(CudaContext& context, const ops::MlaPrefillArgs& args) {
  const int64_t tokens = args.num_kv_tokens;
  const int64_t heads = args.q_nope.shape[1];
  const int64_t latent = args.w_kv_b.shape[2];
  const Expanded expanded(args.workspace.data, tokens, heads, latent);
  const auto* plan = args.plan.as<int32_t>();
  pack_latents(context, {.packed = expanded.latents,
                         .cache = args.cache,
                         .batch = args.batch,
                         .plan = plan,
                         .num_rows = args.q_nope.shape[0]});
  ops::cuda::gemm({.out = expanded.nope_and_value.reshape({tokens, heads * (kNope + kValue)}),
                   .a = expanded.latents.columns(0, latent),
                   .w = args.w_kv_b.reshape({heads * (kNope + kValue), latent}),
                   .bias = {}},
                  context);
  join_keys(context, {.keys = expanded.keys,
                      .nope = expanded.nope_and_value.columns(0, kNope),
                      .rope = expanded.latents.columns(latent, kRope)});
  auto q = args.q_nope;
  q.shape[2] = kNope + kRope;
  launch_ragged_prefill(context, {.out = args.out,
                                  .q = q,
                                  .k = expanded.keys,
                                  .v = expanded.nope_and_value.columns(kNope, kValue),
                                  .plan = plan,
                                  .scale = args.scale});
}

}  // namespace weft::kernels

namespace weft::ops::cuda {

int64_t mla_prefill_workspace(int64_t num_kv_tokens, int64_t heads, int64_t kv_lora_rank) {
  return kernels::Expanded(nullptr, num_kv_tokens, heads, kv_lora_rank).num_bytes;
}

bool flashinfer_runs_here() { return device::cuda::device_attribute(cudaDevAttrComputeCapabilityMajor) == 9; }

}  // namespace weft::ops::cuda
