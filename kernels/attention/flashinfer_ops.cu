// What ops ask of FlashInfer's kernels.
#include "kernels/attention/flashinfer.h"
#include "kernels/attention/flashinfer_ops.h"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

/// Rows and heads of a bf16 view can be fetched 16 bytes at a time.
bool is_aligned(const device::TensorView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride[0] % 8 == 0 &&
         view.stride[1] % 8 == 0;
}

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

}  // namespace weft::kernels

namespace weft::ops::cuda {

bool flashinfer_runs_here() {
  int ordinal = 0;
  int major = 0;
  device::cuda::check_cuda(cudaGetDevice(&ordinal), "cudaGetDevice");
  device::cuda::check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal),
                           "cudaDeviceGetAttribute");
  return major == 9;
}

}  // namespace weft::ops::cuda
