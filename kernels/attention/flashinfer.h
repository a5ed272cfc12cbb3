#pragma once

#include "device/cuda/cuda_context.h"
#include "device/tensor.h"

/// FlashInfer's kernels, each in a file of its own that takes a minute to compile: so these files know little
/// of weft, and flashinfer_ops.cu stands between.
namespace weft::kernels {

/// Causal attention of planned prompts over pages. All views are bf16, [.., heads, 128], with 16-byte rows.
struct PagedPrefill {
  device::TensorView out, q;            // [rows, q_heads, 128]
  device::TensorView k_cache, v_cache;  // [slots, kv_heads, 128], of equal strides
  const int32_t* page_table = nullptr;  // [seqs, page_table_stride]
  int32_t page_table_stride = 0;
  int32_t page_size = 1;
  const int32_t* plan = nullptr;  // of plan_prefill
  float scale = 1.0F;
};
void launch_paged_prefill(const device::cuda::CudaContext& context, const PagedPrefill& args);

/// Causal attention of planned prompts over keys and values that lie packed, sequence after sequence. All
/// views are bf16 with 16-byte rows.
struct RaggedPrefill {
  device::TensorView out;  // [rows, heads, 128]
  device::TensorView q;    // [rows, heads, 192]
  device::TensorView k;    // [tokens, heads, 192]
  device::TensorView v;    // [tokens, heads, 128]
  const int32_t* plan = nullptr;
  float scale = 1.0F;
};
void launch_ragged_prefill(const device::cuda::CudaContext& context, const RaggedPrefill& args);

}  // namespace weft::kernels
