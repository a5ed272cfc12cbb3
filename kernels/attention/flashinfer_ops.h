#pragma once

#include "kernels/common/launch.cuh"
#include "ops/attention.h"

/// FlashInfer's kernels as ops see them; in builds with WEFT_HAS_FLASHINFER alone.
namespace weft::kernels {

/// True if there is a plan, and the kernel takes these widths, dtypes and strides.
bool flashinfer_serves(const ops::PagedAttentionArgs& args);
/// The planned sequences.
void flashinfer_paged_attention(const CudaContext& context, const ops::PagedAttentionArgs& args);

}  // namespace weft::kernels
