#pragma once

#include "device/cuda/cuda_context.h"
#include "ops/gemm.h"

namespace weft::kernels {

/// The alignment of groups for DeepGEMM's fastest tile; 1 if it should not, or cannot, compute so many
/// groups. mean_rows: of a group.
int32_t deepgemm_alignment(int64_t groups, int64_t mean_rows);
/// True if DeepGEMM computes this product: bf16 rows in groups that are aligned to its tiles, on a Hopper GPU
/// with as many multiprocessors as the kernels are made for.
bool deepgemm_serves(const ops::GroupedGemmArgs& args, const device::cuda::CudaContext& context);
/// grouped_gemm by DeepGEMM. Rows of out between groups are written too.
void deepgemm_grouped_gemm(const ops::GroupedGemmArgs& args, const device::cuda::CudaContext& context);

}  // namespace weft::kernels
