#pragma once

#include "kernels/common/launch.cuh"
#include "ops/attention.h"

/// FlashInfer's kernels as ops see them; in builds with WEFT_HAS_FLASHINFER alone.
namespace weft::kernels {

/// True if there is a plan, and the kernel takes these widths, dtypes and strides.
bool flashinfer_serves(const ops::PagedAttentionArgs& args);
/// The planned sequences.
void flashinfer_paged_attention(const CudaContext& context, const ops::PagedAttentionArgs& args);

/// True if there is a plan and a workspace for all keys, heads are DeepSeek's (128 columns and 64 rotated
/// ones, values of 128), and dtypes and strides are the kernel's.
bool flashinfer_serves(const ops::MlaPrefillArgs& args);
/// The planned sequences: packs their latents, expands them by a product, and attends.
void flashinfer_mla_prefill(CudaContext& context, const ops::MlaPrefillArgs& args);

}  // namespace weft::kernels
